"""Every reason and close code that a client can get is explained, and answers are read as wsbridge writes them."""

from __future__ import annotations

import pytest

from wsbridge.probe.explanations import EXPLANATIONS, explain_close, explain_reason
from wsbridge.probe.peers import find_reason, first_line, name_http_server, name_service
from wsbridge.protocol.http1 import Headers
from wsbridge.reasons import REASONS, Reason

NOT_GIVEN_TO_CLIENTS = {"client_closed"}
TEXT = Headers(
    [
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"Cache-Control", b"no-store"),
    ]
)


def test_every_reason_that_a_client_can_get_is_explained() -> None:
    """One with a status or a close code has a cause and a remedy of its own."""
    given = {reason.value for reason, info in REASONS.items() if info.status or info.close_code}
    assert not given - EXPLANATIONS.keys() - NOT_GIVEN_TO_CLIENTS
    for found in EXPLANATIONS.values():
        assert found.cause.endswith(".")
        assert found.remedies
        assert not any(remedy.endswith(".") for remedy in found.remedies)


def test_the_number_of_the_connection_is_named() -> None:
    """So that its line in the log is found."""
    assert "of connection 17: journalctl" in explain_reason(Reason.BACKEND_TLS, "17").remedies[-1]
    assert "has the detail: journalctl" in explain_reason(Reason.BACKEND_TLS).remedies[-1]


@pytest.mark.parametrize(
    ("code", "text", "cause"),
    [
        (1014, "backend_dns", "cannot be resolved"),
        (1008, "", "by its policy"),
        (3000, "", "one of the registered"),
        (4999, "", "application's own"),
        (1007, "", "one of the protocol's"),
        (None, "", "without a code"),
    ],
)
def test_close_codes(code: int | None, text: str, cause: str) -> None:
    """The text decides where it is the name of a reason."""
    assert cause in explain_close(code, text).cause


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"no_route", Reason.NO_ROUTE),
        (b"no_route: There is nothing at this address. (id=7)\n", Reason.NO_ROUTE),
        (b"no_routes", None),
        (b"Forbidden", None),
        (b"forbidden", Reason.FORBIDDEN),
        (b"", None),
    ],
)
def test_the_reason_of_an_answer(body: bytes, reason: Reason | None) -> None:
    """It is the first word, of a text with the headers of wsbridge and not of another server's."""
    assert find_reason(TEXT, body) is reason
    assert find_reason(Headers([(b"Content-Type", b"text/plain; charset=utf-8")]), body) is None


@pytest.mark.parametrize(
    ("lines", "body", "name"),
    [
        ([(b"Server", b"nginx/1.22.1")], b"", "nginx"),
        ([(b"Server", b"openresty")], b"", "nginx"),
        ([(b"Server", b"x"), (b"CF-RAY", b"1")], b"", "Cloudflare"),
        ([], b"<h1>503</h1>\nNo server is available to handle this request.\n", "HAProxy"),
        ([(b"X-Envoy-Upstream-Service-Time", b"1")], b"", "Envoy"),
        ([(b"Server", b"my own")], b"hello", ""),
    ],
)
def test_who_answered(lines: list[tuple[bytes, bytes]], body: bytes, name: str) -> None:
    """By the headers, else by the body."""
    assert name_http_server(Headers(lines), body) == name


def test_the_first_line_of_a_page() -> None:
    """Tags, styles and empty lines are left out; what a terminal would obey is escaped."""
    page = b"<!doctype html><style>p{}</style>\n\n<h1>502  Bad</h1>\x1b[2J\n<p>more</p>"
    assert first_line(page) == "502 Bad \\x1b[2J"
    assert first_line(b"<p>\n</p>") == ""
    assert first_line(b"<script>" + b"x" * 100_000) == ""


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"SSH-2.0-x", "an SSH server"),
        (b"J\x00\x00\x00\x0a8.0.36\x00", "a MySQL server"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "a TLS server"),
        (b"hello", ""),
    ],
)
def test_services_by_their_greeting(data: bytes, name: str) -> None:
    """Known ones are named."""
    assert name_service(data) == name
