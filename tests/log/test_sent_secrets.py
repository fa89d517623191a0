"""Secrets that a server repeats."""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from urllib.parse import quote

import pytest

from wsbridge.config.secrets import Secret
from wsbridge.log.sent_secrets import SentSecrets

PASSWORD = 'p"s&<s>/w+\u00f6rd'


@pytest.mark.parametrize(
    "spelling",
    [
        PASSWORD,
        html.escape(PASSWORD),
        json.dumps(PASSWORD),
        json.dumps(PASSWORD, ensure_ascii=False),
        quote(PASSWORD, safe=""),
        re.sub("%..", lambda found: found[0].lower(), quote(PASSWORD, safe="")),
    ],
)
def test_a_secret_is_hidden_however_it_is_written(spelling: str) -> None:
    """Pages, JSON and URLs escape some of its characters."""
    basic = b64encode(f"me:{PASSWORD}".encode()).decode()
    secrets = SentSecrets({"Authorization": Secret(f"Basic {basic}")})
    shown = secrets.hide_in_text(f"you sent {spelling} and {basic}, Authorization")
    assert "w+" not in shown
    assert "rd" not in shown
    assert basic not in shown
    assert shown.endswith(", Authorization")
