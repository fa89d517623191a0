"""The JSON Schema that editors check a file by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.config import yaml12
from tests.config.loading import LISTENERS, ROUTES
from wsbridge.config.schema import json_schema
from wsbridge.registry import CONFIG_REGISTRY

CONF = Path(__file__).parents[2] / "conf"
SCHEMA = json_schema(CONFIG_REGISTRY)
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


def mistakes(text: str) -> list[str]:
    """Give the places of what the schema refuses."""
    return [".".join(map(str, error.absolute_path)) for error in VALIDATOR.iter_errors(yaml12.read(text))]


def test_it_is_a_schema_of_draft_7() -> None:
    """The schema is valid by its own dialect, which YAML language servers know, and is plain JSON."""
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.name)
def test_samples_are_valid(path: Path) -> None:
    """Every file in conf/ is valid by the schema."""
    assert mistakes(path.read_text()) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (LISTENERS + ROUTES + "engnie: auto\n", ""),
        (LISTENERS + ROUTES + "timeouts: {idel: 1h}\n", "timeouts"),
        (LISTENERS + ROUTES + "timeouts: {idle: 60}\n", "timeouts.idle"),
        (LISTENERS + ROUTES + "timeouts: {idle: soon}\n", "timeouts.idle"),
        (LISTENERS + ROUTES + "timeouts: {connect: off}\n", "timeouts.connect"),
        (LISTENERS + ROUTES + "limits: {max_head_bytes: 16KB}\n", "limits.max_head_bytes"),
        (LISTENERS + ROUTES + "log: {level: loud}\n", "log.level"),
        (LISTENERS + ROUTES + "log: null\n", "log"),
        (LISTENERS, ""),
        ("listeners: {web: {protocol: tcp}}\n" + ROUTES, "listeners.web"),
        ("listeners: {a b: {bind: '127.0.0.1:1'}}\n" + ROUTES, "listeners"),
        (LISTENERS + "routes: {r: {match: any}}\n", "routes.r"),
        (LISTENERS + "routes: {r: {match: any, respond: 204, files: x}}\n", "routes.r"),
        (LISTENERS + "routes: {r: {match: all, respond: 204}}\n", "routes.r.match"),
        (LISTENERS + "routes: {r: {match: any, backend: 'http://a'}}\n", "routes.r.backend"),
        (LISTENERS + "routes: {r: {match: any, backend: {url: 'tcp://a:1', ca: x}}}\n", "routes.r.backend"),
        (LISTENERS + "routes: {r: {match: any, backend: {url: 'wss://a', headers: {A: {}}}}}\n", "routes.r.backend"),
        (LISTENERS + "routes: {r: {match: any, backend: 'tcp://a:1', auth: basic}}\n", "routes.r.auth"),
        (LISTENERS + "routes: {r: {match: {path: '/x{h}'}, backend: 'tcp://a:1'}}\n", "routes.r.match"),
        (LISTENERS + "routes: {r: {match: any, backend: '{targe}'}}\n", "routes.r.backend"),
        (LISTENERS + "routes: {r: {match: any, backend: {tokens: t, form: x}}}\n", "routes.r.backend"),
        (
            LISTENERS + "routes: {r: {match: any, backend: 'tcp://{query.h}:1', allowed_targets: {ports: [a]}}}\n",
            "routes.r.allowed_targets.ports.0",
        ),
    ],
)
def test_mistakes_are_found(text: str, place: str) -> None:
    """A mistake that an editor can see is one, at the section where it is."""
    assert mistakes(text) == [place]


@pytest.mark.parametrize(
    "text",
    [
        LISTENERS + ROUTES,
        LISTENERS
        + ROUTES
        + "timeouts: {idle: off, drain: '${DRAIN}'}\nlimits: {max_head_bytes: 16384, max_headers: '${N}'}\n",
        LISTENERS
        + "routes: {r: {match: {listener: [web], host: a}, backend: 'tcp://${HOST}:1', auth: {kind: none}}}\n",
        LISTENERS
        + "routes: {r: {match: any, backend: {url: 'wss://a', headers: {A: x, B: {env: C}}}, allowed_origins: any}}\n",
        "listeners: {s: {bind: 'unix:/s', mode: 0660}, t: {bind: '[::]:1', ipv6_only: true}}\n" + ROUTES,
        LISTENERS
        + "routes: {r: {match: {path: '/{h}/*'}, backend: 'tcp://{h}:1', allowed_targets: {ports: [22, 5900-5999]}}}\n",
        LISTENERS + "routes: {r: {match: any, backend: '{target}', allowed_targets: {unix: [/run]}}}\n",
        LISTENERS
        + "routes: {r: {match: any, backend: {tokens: t, token_from: query.t}, "
        + "allowed_targets: {networks: [10.0.0.0/8]}}}\n",
    ],
)
def test_all_written_forms_are_valid(text: str) -> None:
    """Short and long forms, sizes as numbers, and `${NAME}` in place of any scalar are accepted."""
    assert mistakes(text) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (ROUTES, []),
        (LISTENERS + ROUTES, []),
        (LISTENERS + "routes: {r: {match: any}}\n", ["routes.r"]),
        (ROUTES + "log: {level: info}\n", [""]),
        (ROUTES + "include: a\n", [""]),
    ],
)
def test_included_files_have_a_schema(text: str, place: list[str]) -> None:
    """They have listeners and routes, none of which is required."""
    validator = jsonschema.Draft7Validator(json_schema(CONFIG_REGISTRY, included=True))
    found = [".".join(map(str, error.absolute_path)) for error in validator.iter_errors(yaml12.read(text))]
    assert found == place


def test_a_file_that_includes_others_needs_nothing_else() -> None:
    """Listeners and routes may be in the included files."""
    assert mistakes("include: conf.d/*.yaml\n") == []
    assert mistakes(LISTENERS + "include: [conf.d/*.yaml]\ndefaults: {auth: none}\n") == []
    assert mistakes("include: a\ndefaults: {match: any}\n") == ["defaults"]


def fields(part: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    """Give the options of a section, each by its path."""
    return [(f"{name}.{key}", field) for key, field in part["properties"].items()]


def test_every_option_is_described() -> None:
    """Each key has a sentence, so that an editor can show it."""
    parts = [("", SCHEMA), *SCHEMA["definitions"].items()]
    options = [option for name, part in parts for option in fields(part, name)]
    undescribed = [name for name, field in options if not field.get("description") and not field.get("$ref")]
    assert len(options) > 80
    assert undescribed == []


def test_defaults_are_those_of_the_model_as_written_in_a_file() -> None:
    """The schema has defaults as the file would have them."""
    properties = SCHEMA["definitions"]["Timeouts"]["properties"]
    assert {key: properties[key]["default"] for key in ("handshake", "idle", "write", "accept_pause")} == {
        "handshake": "10s",
        "idle": "off",
        "write": "10m",
        "accept_pause": "100ms",
    }
    assert SCHEMA["definitions"]["Limits"]["properties"]["max_head_bytes"]["default"] == "16KiB"
    assert SCHEMA["definitions"]["ListenerConfig"]["properties"]["mode"]["default"] == "0660"
    assert "default" not in SCHEMA["definitions"]["RouteTimeouts"]["properties"]["ping_interval"]


def test_names_and_defaults_that_editors_show() -> None:
    """Sections have titles in words, not names of classes, and the default is shown with the description."""
    titles = {part["title"] for part in SCHEMA["definitions"].values()}
    assert {"route", "listener", "listener tls", "allowed targets", "basic"} <= titles
    assert not [title for title in titles if title != title.lower() or title.endswith("config")]
    hover = SCHEMA["definitions"]["Timeouts"]["properties"]["handshake"]["markdownDescription"]
    assert hover.endswith("Default: `10s`")
    assert SCHEMA["title"] == "wsbridge.yaml"
