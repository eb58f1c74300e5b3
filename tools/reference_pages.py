"""Pages of the documentation site that are made from the code: commands, settings, API, manifest, HTTP API.

mkdocs loads this file as a hook (mkdocs.yml). The pages are made at each build and are not kept in the repository.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md")
"""Pages in the root of the repository that the site shows, too."""
LINK = re.compile(r"\]\((?:\.\./)*([A-Z]+\.md)(#[^)]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and those in the root of the repository."""
    from mkdocs.structure.files import File

    for name, make in PAGES.items():
        files.append(File.generated(config, name, content=make()))
    for name in OUTSIDE:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name.lower(), content=_without_docs_folder(text)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links to the root of the repository at the pages that `on_files` adds, and other such links at nothing."""
    linked = LINK.sub(lambda match: f"]({match[1].lower()}{match[2] or ''})", markdown)
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]+\)", r"\1", linked)


def _without_docs_folder(text: str) -> str:
    """Return a page of the root as one beside those in docs/."""
    return text.replace("](docs/", "](")


def commands() -> str:
    """Return the reference of every command and subcommand."""
    from typer.main import get_command

    from gtsa_kit.cli import app

    lines = ["# Commands", "", "`gtsa COMMAND --help` prints the same.", ""]
    for name, command in _walk(get_command(app), "gtsa"):
        lines += _describe_command(name, command)
    return "\n".join(lines)


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    children = sorted(getattr(command, "commands", {}).items())
    for child_name, child in children:
        if child_name.isupper():  # the command that runs if no subcommand is named
            yield name, child
    if not any(child_name.isupper() for child_name, _ in children):
        yield name, command
    for child_name, child in children:
        if not child_name.isupper():
            yield from _walk(child, f"{name} {child_name}")


def _describe_command(name: str, command: Any) -> list[str]:
    text = inspect.cleandoc(command.help or "")
    text = re.sub(r"\[/?(bold|cyan|dim|green|yellow)\]", "", text)
    text = re.sub(r"^ {2}(?=gtsa )", "    ", text, flags=re.MULTILINE)
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and not param.hidden]
    usage = " ".join([name, *(param.metavar or str(param.name).upper() for param in arguments)])
    lines = [f"## {name}", "", f"    {usage}{' [OPTIONS]' if options else ''}", "", text, ""]
    rows = [(param.metavar or str(param.name).upper(), param) for param in arguments]
    rows += [(", ".join(param.opts), param) for param in options if param.name != "help"]
    if rows:
        lines += [
            "| argument | meaning |",
            "|---|---|",
            *(f"| `{label}` | {_option_help(param)} |" for label, param in rows),
            "",
        ]
    return lines


def _option_help(param: Any) -> str:
    text = re.sub(r"\[/?bold\]", "", getattr(param, "help", "") or "")
    default = getattr(param, "default", None)
    if param.param_type_name == "option" and isinstance(default, str | int | float) and not isinstance(default, bool):
        text += f" Default: {default}." if "Default" not in text else ""
    return _cell(text)


def settings() -> str:
    """Return the table of the settings of a training run, and of a fine-tuning run."""
    from gtsa_kit.config import RunConfig, describe_settings

    lines = [
        "# Settings",
        "",
        "`gtsa config` prints the settings of `gtsa train` as YAML; `--set KEY=VALUE` changes one.",
        "",
    ]
    lines += ["| key | default | meaning |", "|---|---|---|"]
    for setting in describe_settings(RunConfig()):
        choices = f" One of {', '.join(map(str, setting.choices))}." if setting.choices else ""
        lines.append(f"| `{setting.key}` | {_yaml(setting.default)} | {_cell(setting.meaning + choices)} |")
    from gtsa_kit.config.finetune import FinetuneConfig

    lines += ["", "## Fine-tuning", "", "| key | default | meaning |", "|---|---|---|"]
    lines += [f"| `{key}` | {default} | {_cell(meaning)} |" for key, default, meaning in _fields(FinetuneConfig, "")]
    return "\n".join(lines) + "\n"


def _yaml(value: object) -> str:
    """Return a value as a user writes it in a YAML file."""
    text = json.dumps(value, default=str)
    return f"`{text}`" if value == "" or not isinstance(value, str) else f"`{value}`"


def _fields(model: Any, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield key, default and meaning of the fields of a pydantic model, those of nested models with their path."""
    from pydantic import BaseModel

    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, BaseModel):
            yield from _fields(type(default), f"{prefix}{name}.")
        else:
            shown = "" if field.is_required() else _yaml(default)
            yield f"{prefix}{name}", shown, field.description or ""


def manifest() -> str:
    """Return the fields of a manifest and of its parity report."""
    from gtsa_kit.export import manifest_records
    from gtsa_kit.export.manifest import Manifest
    from gtsa_kit.export.parity_report import Difference, ParityReport, Record

    lines = [
        "# Manifest",
        "",
        "`FILE.json` beside an exported file, and the metadata `gtsa_kit` inside an ONNX file.",
        "",
    ]
    records = [one for one in vars(manifest_records).values() if inspect.isclass(one) and issubclass(one, Record)]
    for model in dict.fromkeys([Manifest, ParityReport, Difference, *(one for one in records if one is not Record)]):
        lines += [
            f"## {model.__name__}",
            "",
            inspect.getdoc(model) or "",
            "",
            "| field | type | meaning |",
            "|---|---|---|",
        ]
        documented = _attribute_docs(model)
        for name, field in model.model_fields.items():
            kind = re.sub(r"gtsa_kit[\w.]*\.", "", inspect.formatannotation(field.annotation))
            lines.append(f"| `{name}` | `{_cell(kind)}` | {_cell(documented.get(name, ''))} |")
        lines.append("")
    return "\n".join(lines)


def _attribute_docs(model: Any) -> dict[str, str]:
    """Return the texts below the fields of a class, by name."""
    import ast

    body = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            docs[ast.unparse(field.target)] = str(text.value.value)
    return docs


def http_api() -> str:
    """Return the routes of the service."""
    document = openapi_document()
    lines = ["# HTTP API", "", "A running service shows the same under `/docs`, and `/openapi.json` for programs.", ""]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines += [
                f"## `{method.upper()} {path}`",
                "",
                operation.get("description") or operation.get("summary", ""),
                "",
            ]
            lines += _describe_operation(operation)
    return "\n".join(lines)


def openapi_document() -> Mapping[str, Any]:
    """Return the OpenAPI document of the routes, without a model."""
    from fastapi import FastAPI

    from gtsa_kit.service import routes_features, routes_info, routes_tasks

    app = FastAPI(title="gtsa-kit")
    for module in (routes_info, routes_features, routes_tasks):
        app.include_router(module.router)
    document: Mapping[str, Any] = app.openapi()
    return document


def _describe_operation(operation: Mapping[str, Any]) -> list[str]:
    lines = []
    if parameters := operation.get("parameters", []):
        lines += ["| parameter | meaning |", "|---|---|"]
        for parameter in parameters:
            text = parameter.get("description") or parameter["schema"].get("description", "")
            lines.append(f"| `{parameter['name']}` | {_cell(text)} |")
        lines.append("")
    if body := operation.get("requestBody", {}).get("content", {}):
        lines += [f"Body: {', '.join(f'`{kind}`' for kind in body)}", ""]
    answers = [f"`{status}` {answer.get('description', '')}" for status, answer in operation["responses"].items()]
    return [*lines, f"Answers: {'; '.join(answers)}", ""]


def api() -> str:
    """Return the page of the public API, which mkdocstrings fills."""
    import gtsa_kit

    paths = {**gtsa_kit._MODULES, "export": "gtsa_kit.export.api"}
    lines = ["# Python API", "", *inspect.cleandoc(gtsa_kit.__doc__ or "").splitlines(), ""]
    for name in sorted(set(paths), key=str.lower):
        lines += [f"## gtsa_kit.{name}", "", f"::: {paths[name]}.{name}", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Return a text that fits into a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/commands.md": commands,
    "reference/settings.md": settings,
    "reference/api.md": api,
    "reference/manifest.md": manifest,
    "reference/http.md": http_api,
}
"""Functions that make the pages, by their path in the site."""
