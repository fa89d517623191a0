"""The pages about migrating and about troubleshooting are complete, and name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from wsbridge.config.load import load_text
from wsbridge.reasons import REASONS, Reason
from wsbridge.registry import CONFIG_REGISTRY

DOCS = Path(__file__).parents[2] / "docs"
NOT_BY_SYMPTOM = {
    *(Reason.BACKEND_CLOSED, Reason.CLIENT_CLOSED, Reason.SERVED, Reason.SHUTDOWN, Reason.BANNED),
    *(Reason.PROTOCOL_ERROR, Reason.BAD_PROXY_HEADER),
}
"""Reasons that are no trouble, or that are found by the table of reasons alone."""


OPTIONS = """
help verbose traffic record daemon run-once timeout idle-timeout cert key key-password ssl-only ssl-target verify-client
cafile ssl-version ssl-ciphers unix-target inetd web web-auth wrap-mode prefer-ipv6 libserver target-config token-plugin
token-source host-token auth-plugin auth-source heartbeat log-file syslog legacy-syslog file-only
"""
"""The options of websockify 0.13."""


def test_every_option_of_websockify_is_answered() -> None:
    """Each has a row that says what it is here, or that it is not."""
    rows = re.findall(r"^\| (.*?) \| (.+?) \|$", (DOCS / "migrate-from-websockify.md").read_text(), re.MULTILINE)
    answered = {option for row, _ in rows for option in re.findall(r"--([a-z0-9-]+)", row)}

    assert set(re.findall(r"\S+", OPTIONS)) == answered


def test_settings_of_the_table_can_be_copied() -> None:
    """Settings that the table of options has in full are valid where they belong."""
    table = (DOCS / "migrate-from-websockify.md").read_text().partition("## Every option")[2]
    settings = re.findall(r"`((?:auth|backend|tls|log): \{[^`…]*\})`", table)
    complete = [text for text in settings if "forward" not in text and "jwt" not in text]

    assert len(complete) >= 6
    for text in complete:
        ((key, value),) = yaml.safe_load(text).items()
        tls = {"certificates": [{"cert": "both.pem"}], "client_ca": "ca.pem"} | (value if key == "tls" else {})
        route = {"match": {"path": "/"}, "backend": "tcp://10.0.0.5:5900", "auth": "none"}
        if key in ("auth", "backend"):
            route[key] = value
        if key == "backend":
            route["allowed_targets"] = {"networks": ["10.0.0.0/8"], "ports": [5900]}
        file = {"listeners": {"web": {"bind": "127.0.0.1:1", "tls": tls}}, "routes": {"vnc": route}}
        if key == "log":
            file["log"] = value
        load_text(yaml.safe_dump(file), file=text, registry=CONFIG_REGISTRY, check_files=False)


def test_symptoms_name_reasons() -> None:
    """Each reason that a user could meet has a row with a status that it has, and no other name is a reason there."""
    rows = re.findall(r"^\| (.*?) \| (.*?) \| .* \|$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    found = {name: symptom for symptom, reasons in rows for name in re.findall(r"`([a-z_0-9]+)`", reasons)}

    assert set(Reason) - set(map(Reason, found)) - NOT_BY_SYMPTOM <= {Reason.TLS_FAILED}
    for name, symptom in found.items():
        status = REASONS[Reason(name)].status
        statuses = [int(number) for number in re.findall(r"\b[45]\d\d\b", symptom)]
        assert not statuses or status in (None, *statuses), name
