"""The effective settings: every value, where it comes from, and no secret."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.config.loading import read
from wsbridge.config.effective import to_json, to_yaml
from wsbridge.config.errors import ConfigError
from wsbridge.config.load import LoadedConfig, load_text
from wsbridge.config.model import Config
from wsbridge.config.route import RouteDefaults
from wsbridge.registry import CONFIG_REGISTRY

CONF = Path(__file__).parents[2] / "conf"
LISTENERS = "listeners: {web: {bind: 127.0.0.1:8080}}\n"


def shown(loaded: LoadedConfig) -> str:
    """Write the settings of a configuration."""
    assert loaded.locate is not None
    return to_yaml(loaded.config, loaded.references, loaded.locate)


def merged(config: Config) -> Config:
    """Leave out what has been merged into listeners and routes."""
    return config.model_copy(update={"include": (), "defaults": RouteDefaults()})


def read_again(text: str, environ: dict[str, str] | None = None, folder: Path | None = None) -> LoadedConfig:
    """Load what was shown."""
    return load_text(
        text, file="x.yaml", registry=CONFIG_REGISTRY, environ=environ or {}, directory=folder, check_files=False
    )


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.name)
def test_what_is_shown_loads_again_and_is_equal(path: Path) -> None:
    """Every option of the sample, and every example; a second time it shows the same, but for the places."""
    text = re.sub(r"(X-Office|User-Agent): \w+", "", path.read_text())  # texts of sent headers are masked
    environ = {"NODE": "a"}
    first = read_again(text, environ, CONF)
    again = read_again(shown(first), environ, CONF)
    assert again.config == merged(first.config)
    assert [line.partition("  # ")[0] for line in shown(again).splitlines()] == [
        line.partition("  # ")[0] for line in shown(first).splitlines()
    ]


def test_each_value_has_its_place_or_is_a_default() -> None:
    """The line of the file, also for short forms; keys without a value are not shown."""
    lines = shown(
        read(
            "listeners:\n  web:\n    bind: '[::]:8080'\n"
            "routes:\n  vnc:\n    match: {path: /vnc, host: gw.example.org}\n    backend: tcp://10.0.0.5:5900\n"
            "    auth: none\n    timeouts: {idle: 1h}\n"
        )
    ).splitlines()
    assert '    bind: "[::]:8080"  # w.yaml:3' in lines
    assert "    backlog: 1024  # default" in lines
    assert "      host: [gw.example.org]  # w.yaml:6" in lines
    assert "      url: tcp://10.0.0.5:5900  # w.yaml:7" in lines
    assert "      kind: none  # w.yaml:8" in lines
    assert lines[lines.index("    timeouts:") + 1 :][:2] == ["      idle: 1h  # w.yaml:9", "    dial:"]
    assert "  ping_interval: 20s  # default" in lines
    assert "    mode: 0660  # default" not in lines  # for Unix sockets only
    assert not [line for line in lines if "tls:" in line and "10s" not in line]


def test_included_files_and_defaults_of_routes(tmp_path: Path) -> None:
    """What they set has its place there; they are not shown themselves, since a second time would be a duplicate."""
    (tmp_path / "more.yaml").write_text(
        "routes:\n  far:\n    match: {path: /far}\n    backend: 'tcp://${FAR}:1'\n    timeouts: {write: 1m}\n"
    )
    text = (
        "include: more.yaml\n"
        "defaults:\n  auth: none\n  timeouts: {idle: 2h}\n  allowed_origins: ['https://${NEAR}']\n"
        "listeners: {web: {bind: '127.0.0.1:1'}}\n"
        "routes: {near: {match: {path: /near}, backend: 'tcp://10.0.0.5:1'}}\n"
    )
    environ = {"FAR": "geheim.example.org", "NEAR": "geheim.example.org"}
    loaded = read(text, environ, tmp_path)
    output = shown(loaded)
    lines = output.splitlines()
    assert '      url: "tcp://${FAR}:1"  # more.yaml:4' in lines
    assert "      write: 1m  # more.yaml:5" in lines
    assert lines.count("      kind: none  # w.yaml:3") == 2
    assert lines.count("      idle: 2h  # w.yaml:4") == 2
    assert lines.count('    allowed_origins: ["https://${NEAR}"]  # w.yaml:5') == 2
    assert "geheim" not in output + json.dumps(to_json(loaded.config, loaded.references))
    assert not {"include", "defaults"} & to_json(loaded.config, loaded.references).keys()
    assert read_again(output, environ).config == merged(loaded.config)


def test_no_secret_is_shown(tmp_path: Path) -> None:
    """Where it comes from is shown instead; queries and passwords in URLs, and texts of headers, are masked."""
    (tmp_path / "token").write_text("geheim1\n")
    (tmp_path / "token").chmod(0o600)
    environ = {"SECRET": "geheim2", "PART": "geheim3", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    backend = (
        "{url: 'wss://gw/x?key=geheim4&b=${PART}', proxy: 'http://user:geheim5@proxy:3128', "
        "proxy_headers: {X: geheim6}, origin: 'https://${PART}.example.org', "
        "headers: {A: {file: token}, B: {env: SECRET}, C: {credential: token}, D: geheim7, E: '${PART}', "
        "F: 'Bearer geheim8${PART}'}}"
    )
    loaded = read(LISTENERS + f"routes: {{vnc: {{match: any, auth: none, backend: {backend}}}}}\n", environ, tmp_path)
    text, values = shown(loaded), to_json(loaded.config, loaded.references)
    assert "geheim" not in text + json.dumps(values)
    assert values["routes"]["vnc"]["backend"] | {"insecure": None} == {
        "url": "wss://gw/x?***",
        "insecure": None,
        "headers": {
            "A": {"file": str(tmp_path / "token")},
            "B": {"env": "SECRET"},
            "C": {"credential": "token"},
            "D": "***",
            "E": "${PART}",
            "F": "***${PART}",
        },
        "proxy": "http://***@proxy:3128",
        "proxy_headers": {"X": "***"},
        "origin": "https://${PART}.example.org",
        "pass_origin": False,
        "pass_path": False,
        "pass_query": False,
        "pass_credentials": False,
        "messages": "binary",
        "resume": "auto",
    }
    assert '      origin: "https://${PART}.example.org"  # w.yaml:2' in text


@pytest.mark.parametrize("password", ["geheim", "ge?heim", "ge#heim", "ge%40heim", "${PART}?heim"])
def test_no_password_of_a_proxy_is_shown(password: str) -> None:
    """Whatever characters it has, with variables in the URL and without."""
    for proxy in (f"http://user:{password}@proxy:3128", f"http://user:{password}@${{HOST}}:3128"):
        backend = f"{{url: 'wss://gw/x?a=b@geheim', proxy: '{proxy}'}}"
        text = LISTENERS + f"routes: {{vnc: {{match: any, auth: none, backend: {backend}}}}}\n"
        loaded = read(text, {"HOST": "proxy", "PART": "geheim"})
        output = shown(loaded) + json.dumps(to_json(loaded.config, loaded.references))
        assert "heim" not in output
        assert output.count("http://***") == 2


def test_variables_stay_variables() -> None:
    """As the file has them, in short forms, too; so the settings can be read again in another environment."""
    text = (
        "listeners: {web: {bind: '127.0.0.1:${PORT}'}}\n"
        "routes: {vnc: {match: {host: '${HOST}'}, auth: none, backend: 'tcp://${HOST}:1'}}\n"
    )
    environ = {"PORT": "8080", "HOST": "gw.example.org"}
    loaded = read(text, environ)
    output = shown(loaded)
    assert 'bind: "127.0.0.1:${PORT}"' in output
    assert 'host: ["${HOST}"]' in output
    assert 'url: "tcp://${HOST}:1"' in output
    assert "8080" not in output
    assert read_again(output, environ).config == loaded.config


def test_a_default_that_is_the_value_of_another_setting() -> None:
    """The key of a certificate is in the same file by default, with the same variables."""
    text = (
        "listeners: {web: {bind: '127.0.0.1:1', tls: {certificates: [{cert: '/${DIR}/all.pem'}]}}}\n"
        "routes: {vnc: {match: any, auth: none, backend: 'tcp://${HOST}:1'}}\n"
    )
    environ = {"DIR": "geheim", "HOST": "geheim"}
    loaded = read(text, environ)
    output = shown(loaded)
    assert '          key: "/${DIR}/all.pem"  # default' in output.splitlines()
    assert "geheim" not in output
    assert read_again(output, environ).config == loaded.config


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(path=TEXTS, realm=TEXTS, name=st.sampled_from(["no", "on", "22", "null", "true", "a-b", "0x10"]))
def test_any_text_is_read_again_as_it_is(path: str, realm: str, name: str) -> None:
    """Whatever YAML would make of it: words of YAML 1.1, quotes, comments, line ends, characters beyond the BMP."""
    auth: dict[str, Any] = {"kind": "basic", "users": f"/x/{path}".replace("${", ""), "realm": realm.replace("${", "")}
    routes = {name: {"match": "any", "auth": auth, "respond": "204"}}
    text = json.dumps({"listeners": {"web": {"bind": "127.0.0.1:1"}}, "routes": routes}, ensure_ascii=False)
    try:
        loaded = read_again(text)
    except ConfigError:
        return  # no valid value
    if "?" not in path + realm and "://" not in path + realm:
        assert read_again(shown(loaded)).config == loaded.config
