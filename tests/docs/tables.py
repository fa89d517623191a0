"""The tables of docs/configuration.md, as the model has them."""

from __future__ import annotations

from typing import Any

from wsbridge.config.errors import PROBLEM_CODES
from wsbridge.config.schema import json_schema
from wsbridge.explanations.problems import PROBLEM_REMEDIES
from wsbridge.registry import CONFIG_REGISTRY

SCHEMA = json_schema(CONFIG_REGISTRY)


def written(value: object) -> str:
    """Write a default the way the file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def described(field: dict[str, Any]) -> str:
    """Give the sentence of a field, or of the section that it holds."""
    reference = field.get("$ref", "").rpartition("/")[2]
    text: str = field.get("description") or SCHEMA["definitions"][reference]["description"]
    return " ".join(text.split()).replace("|", "\\|")


def options(name: str) -> list[str]:
    """Give the table of one section of the model, line by line; the empty name is the top of the file."""
    part = SCHEMA["definitions"][name] if name else SCHEMA
    lines = ["| key | default | |", "|---|---|---|"]
    for key, field in part["properties"].items():
        default = f"`{written(field['default'])}`" if "default" in field else ""
        if key in part.get("required", ()):
            default = "required"
        lines.append(f"| `{key}` | {default} | {described(field)} |")
    return lines


def codes() -> list[str]:
    """Give the table of codes, line by line."""
    rows = (f"| {code} | {meaning} | {PROBLEM_REMEDIES[code]} |" for code, meaning in PROBLEM_CODES.items())
    return ["| code | meaning | what to change |", "|---|---|---|", *rows]
