"""The files in conf/."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from pydantic import BaseModel

from tests.auth import signing
from tests.config import yaml12
from tests.config.loading import summaries
from wsbridge.auth import passwords
from wsbridge.config.check import listeners_of
from wsbridge.config.load import load_file, load_text
from wsbridge.config.model import Config
from wsbridge.config.schema import json_schema
from wsbridge.registry import CONFIG_REGISTRY

CONF = Path(__file__).parents[2] / "conf"
SAMPLE = CONF / "wsbridge.yaml"


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.name)
def test_every_file_loads(path: Path) -> None:
    """Each file loads without an error, leaving aside the files that it names."""
    config = load_file(path, CONFIG_REGISTRY, {"NODE": "a"}, check_files=False).config
    assert all(listeners_of(config, name) for name in config.routes)


def test_the_sample_names_its_schema() -> None:
    """The full sample has the line by which editors find the schema."""
    assert SAMPLE.read_text().startswith("# yaml-language-server: $schema=")


def test_the_sample_has_no_warnings() -> None:
    """The full sample passes `check --strict`."""
    assert summaries(load_file(SAMPLE, CONFIG_REGISTRY, {}, check_files=False).warnings) == []


def test_the_sample_starts_where_its_files_exist(tmp_path: Path) -> None:
    """With the files that it names in place, the sample passes with all checks."""
    ours = trustme.CA().issue_cert("gw.example.org")
    for name in ("chain.pem", "client.pem", "clients.pem", "db-ca.pem"):
        (tmp_path / name).write_bytes(ours.cert_chain_pems[0].bytes())
    for name in ("key.pem", "client-key.pem"):
        (tmp_path / name).write_bytes(ours.private_key_pem.bytes())
        (tmp_path / name).chmod(0o600)
    (tmp_path / "tokens").write_text(f"alice sha256:{'0' * 64}\n")
    (tmp_path / "far-vnc").write_text("Bearer abc\n")
    (tmp_path / "admin-token").write_text("abc\n")
    (tmp_path / "admin-token").chmod(0o600)
    (tmp_path / "users").write_text(f"alice:{passwords.hash_password(b'x', ln=12).text}\n")
    (tmp_path / "users").chmod(0o600)
    (tmp_path / "far-vnc").chmod(0o600)
    (tmp_path / "client-key").write_text("geheim\n")
    (tmp_path / "client-key").chmod(0o600)
    (tmp_path / "tickets").write_text("k" * 44 + "\n")
    (tmp_path / "tickets").chmod(0o600)
    (tmp_path / "vnc-tokens").write_text("north7: 10.20.0.7:5901\n")
    (tmp_path / "vnc-tokens").chmod(0o600)
    (tmp_path / "jwt").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "jwt").chmod(0o600)
    (tmp_path / "jwt.pem").write_bytes(signing.RSA.public)
    text = SAMPLE.read_text()
    for folder in ("/etc/wsbridge/tls", "/etc/wsbridge/secrets", "/usr/share/novnc", "/var/log/wsbridge"):
        text = text.replace(folder, str(tmp_path / "novnc" if folder.endswith("novnc") else tmp_path))
    text = text.replace("owner: wsbridge:www-data", f"owner: {os.geteuid()}:{os.getegid()}")
    (tmp_path / "novnc").mkdir()
    assert load_text(text, file="wsbridge.yaml", registry=CONFIG_REGISTRY, environ={}).warnings == []


def keys(value: object) -> Iterator[str]:
    """Give all keys, inner ones too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


def test_the_sample_shows_every_option() -> None:
    """No option is missing from the full sample."""
    shown = set(keys(yaml12.read(SAMPLE.read_text())))
    definitions = json_schema(CONFIG_REGISTRY)["definitions"]
    options = {key for part in definitions.values() for key in part["properties"]} | set(Config.model_fields)
    assert options - shown == set()


def test_values_of_the_sample_are_the_defaults() -> None:
    """What the sample shows for timeouts, limits and the log is what holds without it."""
    config = load_file(SAMPLE, CONFIG_REGISTRY, {}, check_files=False).config
    for section in (config.timeouts, config.limits, config.log):
        assert isinstance(section, BaseModel)
        assert section.model_dump() == type(section)().model_dump()
