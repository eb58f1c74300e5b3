"""The OpenAPI document as a page: nothing from elsewhere, no script."""

import re
from collections.abc import Mapping
from html import escape
from typing import Any

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: interface</title>
<link rel="icon" href="/icon.svg">
<link rel="stylesheet" href="/page.css">
</head>
<body class="documents">
<header><h1>{title}</h1><nav><a href="/">Look at features</a> <a href="/openapi.json">openapi.json</a></nav></header>
<main>
<p>{about}</p>
"""


def document(schema: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI document."""
    info = schema["info"]
    parts = [_HEAD.format(title=escape(info["title"]), about=escape(info.get("description", "")))]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(method, path, operation))
    return "".join([*parts, "</main></body></html>\n"])


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    said = "".join(f"<p>{_text(part)}</p>" for part in operation.get("description", "").split("\n\n"))
    name = escape(f"{method.upper()} {path}")
    body = operation.get("requestBody", {}).get("content", {})
    kinds = f"<p>Body: {', '.join(f'<code>{escape(kind)}</code>' for kind in body)}</p>" if body else ""
    return (
        f"<section><h2><code>{name}</code> {escape(operation.get('summary', ''))}</h2>{said}{kinds}"
        f"{_parameters(operation)}{_responses(operation)}</section>\n"
    )


def _parameters(operation: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(entry['name'])}</code></td><td>{escape(_kind(entry['schema']))}</td>"
        f"<td>{_text(_described(entry))}</td></tr>"
        for entry in operation.get("parameters", [])
    ]
    return _table("Parameter", "Values", rows)


def _responses(operation: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(status)}</code></td><td>{', '.join(map(escape, said.get('content', {})))}</td>"
        f"<td>{_text(said.get('description', ''))}</td></tr>"
        for status, said in sorted(operation.get("responses", {}).items())
    ]
    return _table("Answer", "Type", rows)


def _table(first: str, second: str, rows: list[str]) -> str:
    if not rows:
        return ""
    head = f"<thead><tr><th>{first}</th><th>{second}</th><th></th></tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _text(said: str) -> str:
    """Escaped; what stands between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(said))


def _described(parameter: Mapping[str, Any]) -> str:
    schemas = [parameter, parameter["schema"], *parameter["schema"].get("anyOf", [])]
    return next((str(schema["description"]) for schema in schemas if "description" in schema), "")


def _kind(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    for option in schema.get("anyOf", []):
        if option.get("type") != "null":
            return _kind(option)
    if "enum" in schema:
        text = ", ".join(map(str, schema["enum"]))
    elif schema.get("type") == "array":
        text = f"list of {_kind(schema['items'])}"
    else:
        text = str(schema.get("type", "any"))
    return f"{text}; default {schema['default']}" if schema.get("default") not in (None, []) else text
