"""Redaction: secrets in keys, queries, URLs and subprotocols."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbridge.log.format import ValueKind, redact, value_kind

NAMES = [
    *("token", "key", "password", "passwd", "pwd", "secret", "access_token", "sig", "signature", "auth", "jwt", "code"),
    *("ticket", "api_key", "apiKey", "X-Auth-Token", "id_token", "client_secret", "session", "t%6fken", "PASSWORD"),
    *("token[]", "X-Amz-Signature"),
]


@pytest.mark.parametrize("name", NAMES)
def test_secret_parameters_are_hidden(name: str) -> None:
    """The value of a parameter whose name looks secret is replaced, in any case and encoding, the rest stays."""
    assert redact(f"/vnc?a=1&{name}=hunter2&b=2", url=True) == f"/vnc?a=1&{name}=***&b=2"
    assert redact(f"{name}=hunter2", url=True) == f"{name}=***"


@pytest.mark.parametrize(
    "text",
    [
        "/vnc?a=1&host=gw",
        "/vnc",
        "tcp://10.0.0.5:5900",
        "1=2",
        "/a%3Fb%3D1%26c",
        "/%E4%zz?a=100%25",
        "",
        "x@y",
        "a.b.c",
        "?=",
        "&&=&",
    ],
)
def test_other_text_stays(text: str) -> None:
    """Text without secrets is returned as it is."""
    assert redact(text, url=True) == text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("/vnc.html?path=websockify?token=hunter2&x=1", "/vnc.html?path=websockify?token=***&x=1"),
        ("/vnc.html?path=websockify%3Ftoken%3Dhunter2&x=1", "/vnc.html?path=***&x=1"),
        ("/vnc.html?path=websockify%253Ftoken%253Dhunter2", "/vnc.html?path=***"),
        ("/websockify%3Ftoken%3Dhunter2", "/websockify?token=***"),
        ("/websockify%253Ftoken%253Dhunter2%2526b%253D1", "/websockify?token=***&b=1"),
        ("/vnc%3Ftoken%3Dhunter2%2526hunter2", "/vnc?token=***"),
        ("/vnc%3F%2574oken%3Dhunter2", "/vnc?%74oken=***"),
        ("/x%" + "25" * 40 + "3Ftoken%" + "25" * 40 + "3Dhunter2", "***"),
        ('no route for "/ws%3Ftoken=hunter2" on host "gw"', 'no route for "/ws?token=*** on host "gw"'),
        ("/go?to=https%3A%2F%2Fjoe%3Ahunter2%40gw", "/go?to=***"),
        ("https://a/#access_token=hunter2", "https://a/#access_token=***"),
        ("/a;jwt=hunter2;b=1", "/a;jwt=***;b=1"),
        ("/a?token=hunter2==", "/a?token=***"),
        ("/a?token=hunter2?hunter2", "/a?token=***"),
        ("/a?" + "x" * 300 + "token=hunter2", "/a?" + "x" * 300 + "token=***"),
        ("wss://joe:hunter2@gw/x", "wss://joe:***@gw/x"),
        ("status 302, Location: /login?ticket=hunter2 (redirects are not followed)",
         "status 302, Location: /login?ticket=*** (redirects are not followed)"),
    ],
)  # fmt: skip
def test_hiding_places(text: str, clean: str) -> None:
    """Secrets are found in nested targets, encoded ones, fragments, parameters of a path, URL users and sentences."""
    assert redact(text) == clean


def test_equals_sign_in_a_sentence_stays() -> None:
    """Outside a URL the first word before an equals sign is no parameter."""
    assert redact("key=value is wrong") == "key=value is wrong"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("binary, wsbridge.token.aHVudGVyMg", "binary, wsbridge.token.***"),
        ("authorization.bearer.aHVudGVyMg,binary", "authorization.bearer.***,binary"),
        ("WSbridge.Token.aHVudGVyMg", "WSbridge.Token.***"),
        ("base64url.bearer.authorization.k8s.io.aHVudGVyMg", "base64url.bearer.authorization.k8s.io.***"),
        ("wsbridge.resume.v1", "wsbridge.resume.v1"),
    ],
)
def test_subprotocols_that_carry_secrets(text: str, clean: str) -> None:
    """What follows the prefix of a subprotocol that carries a token is hidden."""
    assert redact(text) == clean


@pytest.mark.parametrize(
    "key", ["password", "token", "secret", "Authorization", "Cookie", "Set-Cookie", "proxy_password"]
)
def test_secret_keys(key: str) -> None:
    """Values under these keys are hidden whatever they are."""
    assert value_kind(key) is ValueKind.SECRET


@pytest.mark.parametrize("key", ["path", "target", "url", "query", "location", "referer"])
def test_url_keys(key: str) -> None:
    """Values under these keys are URLs from their first character."""
    assert value_kind(key) is ValueKind.URL


def test_plain_keys() -> None:
    """The code of a close frame and the like are no secrets."""
    assert {value_kind(key) for key in ("code", "key", "detail", "peer")} == {ValueKind.PLAIN}


@given(st.text(st.sampled_from("?&;#=%3Dtoken .:/@a"), max_size=200))
def test_no_secret_survives(text: str) -> None:
    """Whatever precedes `&token=`, the secret after it is never shown; redacting twice changes nothing."""
    clean = redact(f"{text}&token=hunter2", url=True)

    assert "hunter2" not in clean
    assert redact(clean, url=True) == clean


@pytest.mark.parametrize(
    "piece", ["a", "=", "?", "&", "?a=", "a=?", "%3f=", "//", "//a:", "@", "bearer.", "wsbridge.token."]
)
def test_linear_time(piece: str) -> None:
    """The longest texts are redacted quickly, whatever they repeat."""
    text = (piece * 1024)[:1024]
    start = time.thread_time()

    for _ in range(10):
        redact(text, url=True)

    assert (time.thread_time() - start) / 10 < 0.05
