"""API reference: the OpenAPI document as one HTML page without scripts or external resources."""

import re
from collections.abc import Mapping
from html import escape
from typing import Any

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: API reference</title>
<link rel="icon" href="icon.svg">
<link rel="stylesheet" href="page.css">
</head>
<body class="reference">
<header><h1>{title}</h1><nav><a href="./">Feature viewer</a> <a href="openapi.json">openapi.json</a></nav></header>
<main>
<p>{description}</p>
"""


def render_openapi(document: Mapping[str, Any]) -> str:
    """Return an OpenAPI document as HTML."""
    info = document["info"]
    parts = [_HEAD.format(title=escape(info["title"]), description=escape(info.get("description", "")))]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(_render_operation(method, path, operation))
    return "".join([*parts, "</main></body></html>\n"])


def _render_operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    paragraphs = operation.get("description", "").split("\n\n")
    description = "".join(f"<p>{_render_text(paragraph)}</p>" for paragraph in paragraphs)
    name = escape(f"{method.upper()} {path}")
    body = operation.get("requestBody", {}).get("content", {})
    types = f"<p>Body: {', '.join(f'<code>{escape(media_type)}</code>' for media_type in body)}</p>" if body else ""
    return (
        f"<section><h2><code>{name}</code> {escape(operation.get('summary', ''))}</h2>{description}{types}"
        f"{_render_parameters(operation)}{_render_responses(operation)}</section>\n"
    )


def _render_parameters(operation: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(parameter['name'])}</code></td>"
        f"<td>{escape(_describe_schema(parameter['schema']))}</td>"
        f"<td>{_render_text(_find_description(parameter))}</td></tr>"
        for parameter in operation.get("parameters", [])
    ]
    return _render_table("Parameter", "Values", rows)


def _render_responses(operation: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(status)}</code></td><td>{', '.join(map(escape, response.get('content', {})))}</td>"
        f"<td>{_render_text(response.get('description', ''))}</td></tr>"
        for status, response in sorted(operation.get("responses", {}).items())
    ]
    return _render_table("Response", "Type", rows)


def _render_table(first: str, second: str, rows: list[str]) -> str:
    if not rows:
        return ""
    head = f"<thead><tr><th>{first}</th><th>{second}</th><th></th></tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _render_text(text: str) -> str:
    """Escape a text and set the parts between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _find_description(parameter: Mapping[str, Any]) -> str:
    schemas = [parameter, parameter["schema"], *parameter["schema"].get("anyOf", [])]
    return next((str(schema["description"]) for schema in schemas if "description" in schema), "")


def _describe_schema(schema: Mapping[str, Any]) -> str:
    """Return the type and default of a schema in a few words."""
    for option in schema.get("anyOf", []):
        if option.get("type") != "null":
            return _describe_schema(option)
    if "enum" in schema:
        text = ", ".join(map(str, schema["enum"]))
    elif schema.get("type") == "array":
        text = f"list of {_describe_schema(schema['items'])}"
    else:
        text = str(schema.get("type", "any"))
    return f"{text}; default {schema['default']}" if schema.get("default") not in (None, []) else text
