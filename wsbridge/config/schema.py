"""JSON Schema of the configuration file for editors, in draft 7, which the YAML language server supports.

Pydantic generates it from the model; this adds defaults as the file has them, the kinds of backends and authentication
methods, and `${NAME}` in place of any scalar.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import SchemaSerializer, core_schema

from wsbridge.config.backend_urls import IDENTITY_TARGET
from wsbridge.config.base import Registry, Section
from wsbridge.config.include import INCLUDED_SECTIONS
from wsbridge.config.limits import RouteTimeouts
from wsbridge.config.model import REQUIRED_SECTIONS, Config
from wsbridge.config.route import ROUTE_ACTIONS, RouteConfig
from wsbridge.config.unions import UrlBackendSection

JSON_SCHEMA_DIALECT = "http://json-schema.org/draft-07/schema#"
REFERENCE_TEMPLATE = "#/definitions/{model}"
ENV_REFERENCE_SCHEMA = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"}
"""A value with an environment variable."""


class _SchemaGenerator(GenerateJsonSchema):
    """Generates defaults as the file has them, descriptions of keys, and no null."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Return the schema of a section with the docstrings of its fields.

        Pydantic's `use_attribute_docstrings` would read all sources at each start of the program.
        """
        found = super().model_schema(schema)
        for name, description in _field_docstrings(schema["cls"]).items():
            if name in found["properties"]:
                found["properties"][name].setdefault("description", description)
        return found

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Return the default as text of the file; those of sections are in the sections."""
        found = self.generate_inner(schema["schema"])
        if "default" not in schema or schema["schema"]["type"] == "nullable":
            return found
        written = SchemaSerializer(schema["schema"]).to_python(schema["default"], mode="json")
        return {**found, "default": written}

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """An omitted key is None; null itself is not accepted."""
        return self.generate_inner(schema["schema"])


def json_schema(registry: Registry, *, included: bool = False) -> dict[str, Any]:
    """Return the JSON Schema of the file.

    Args:
        registry: The kinds of backends and authentication that it may name.
        included: Whether that of an included file is wanted.
    """
    sections: list[type[Section]] = [Config]
    sections += dict.fromkeys([*registry.backends.values(), *registry.auth.values()])
    _, found = models_json_schema(
        [(section, "validation") for section in sections],
        ref_template=REFERENCE_TEMPLATE,
        schema_generator=_SchemaGenerator,
    )
    definitions: dict[str, Any] = found["$defs"]
    _add_section_rules(definitions, registry)
    definitions = {name: _allow_variables(inner, registry) for name, inner in definitions.items()}
    for name, section in definitions.items():
        section["title"] = section_title(name)
        for field in section["properties"].values():
            _add_hover_text(field)
    top = definitions.pop(Config.__name__)
    if included:
        properties = {key: top["properties"][key] for key in INCLUDED_SECTIONS}
        top = {"type": "object", "additionalProperties": False, "properties": properties}
    return {"$schema": JSON_SCHEMA_DIALECT, **top, "title": "wsbridge.yaml", "definitions": definitions}


def _field_docstrings(section: type) -> dict[str, str]:
    """Return the docstring of each field of a section; a base class has those that it inherits."""
    texts: dict[str, str] = {}
    for base in reversed(section.__mro__):
        if not issubclass(base, Section):
            continue
        for field, text in pairwise(_classes(base.__module__)[base.__name__].body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(description))):
                    texts[name] = inspect.cleandoc(description)
    return texts


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    """Return the classes of a module as they are in its source, which is parsed once for all of them."""
    source = inspect.getsource(sys.modules[module])
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


def section_title(name: str) -> str:
    """Return what editors call a section: `allowed targets` for AllowedTargetsConfig."""
    words = re.findall(r"[A-Z][a-z0-9]*", name.removesuffix("Config"))
    return " ".join(words).lower()


def _add_hover_text(field: dict[str, Any]) -> None:
    """Add the default to what editors show on hover."""
    if "description" in field and "default" in field:
        default = field["default"]
        text = ", ".join(map(str, default)) if isinstance(default, list) else str(default)
        text = text.lower() if isinstance(default, bool) else text
        field["markdownDescription"] = f"{field['description']}\n\nDefault: `{text or '[]'}`"


def _add_section_rules(definitions: dict[str, Any], registry: Registry) -> None:
    """Add the rules that the models check in code."""
    alone = {"not": {"required": ["include"]}}
    definitions[Config.__name__] |= {"if": alone, "then": {"required": [*REQUIRED_SECTIONS]}}
    definitions[RouteConfig.__name__]["oneOf"] = [{"required": [goal]} for goal in ROUTE_ACTIONS]
    for field in definitions[RouteTimeouts.__name__]["properties"].values():
        field.pop("default", None)
        field["description"] += " Default: the top-level value."
    for section in set(_url_backends(registry).values()):
        schemes = [scheme for scheme, found in registry.backends.items() if found is section]
        url = definitions[section.__name__]["properties"]["url"]
        url["pattern"] = f"^({'|'.join(map(_url_prefix, schemes))})"
    for kind, way in registry.auth.items():
        if kind not in way.model_fields:  # else that key says which kind it is
            definitions[way.__name__].setdefault("required", []).append("kind")


def _url_backends(registry: Registry) -> dict[str, type[UrlBackendSection]]:
    """Return the backends that are selected by the scheme of a URL."""
    return {scheme: kind for scheme, kind in registry.backends.items() if issubclass(kind, UrlBackendSection)}


def _is_required(field: FieldInfo) -> bool:
    return field.is_required()


def _url_prefix(scheme: str) -> str:
    return {"unix": "unix:", "ws": "ws(://|\\+unix:)"}.get(scheme, f"{scheme}://")


def _allow_variables(value: Any, registry: Registry) -> Any:
    """Insert the kinds, and allow `${NAME}` in place of scalars."""
    if isinstance(value, list):
        return [_allow_variables(item, registry) for item in value]
    if not isinstance(value, dict):
        return value
    outer = {key: value[key] for key in ("description", "default") if key in value}
    inner = {key: found for key, found in value.items() if key not in outer and key != "title"}
    if "$kinds" in inner:
        return {**outer, "anyOf": _union_variants(inner["$kinds"], registry)}
    if "$ref" in inner:
        return {**outer, "allOf": [inner]} if outer else inner
    if "patternProperties" in inner:
        inner["additionalProperties"] = False
    if _is_strict_scalar(inner):
        return {**outer, "anyOf": [inner, ENV_REFERENCE_SCHEMA]}
    if "properties" in inner:
        properties = {name: _allow_variables(found, registry) for name, found in inner["properties"].items()}
        return {**outer, **inner, "properties": properties}
    return {
        **outer,
        **{key: _allow_variables(found, registry) for key, found in inner.items() if key != "propertyNames"},
    }


def _is_strict_scalar(found: dict[str, Any]) -> bool:
    """Return whether a schema is of a scalar that a text with `${NAME}` does not match."""
    types = found.get("type", ())
    types = {types} if isinstance(types, str) else set(types)
    if "const" in found:
        return True
    return (
        bool(types) and types <= {"string", "integer", "number", "boolean"} and (types != {"string"} or len(found) > 1)
    )


def _union_variants(table: str, registry: Registry) -> list[dict[str, Any]]:
    """Return the forms of a value whose section depends on a kind: its short text, and each section."""
    if table == "backends":
        begin = "|".join([*map(_url_prefix, _url_backends(registry)), re.escape(IDENTITY_TARGET)])
        short: dict[str, Any] = {"type": "string", "pattern": f"^({begin}|.*\\$\\{{)"}
        sections = dict.fromkeys(section.__name__ for section in registry.backends.values())
    else:
        alone = [
            kind for kind, section in registry.auth.items() if not any(map(_is_required, section.model_fields.values()))
        ]
        short = {"enum": sorted(alone)}
        sections = dict.fromkeys(section.__name__ for section in registry.auth.values())
    return [short, *({"$ref": REFERENCE_TEMPLATE.format(model=name)} for name in sections)]
