"""Answers as values, the head written from them, and the route of one fixed status."""

from __future__ import annotations

import pytest

from tests.responders.asking import asked
from wsbridge.responders.base import FixedStatus, HttpResponse, plain_text_response


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_body(status: int) -> None:
    """204 and 304 have neither body nor length."""
    answer = await FixedStatus(status).respond(*asked("GET", "/health"))

    assert (answer.status, answer.body, answer.content_length) == (status, None, None)
    assert b"Content-Length" not in answer.encode_head(keep_alive=True)


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"200 OK\n"), (503, b"503 Service Unavailable\n"), (599, b"599\n"), (205, b"")]
)
async def test_other_statuses_say_their_reason(status: int, body: bytes) -> None:
    """Every other status says itself in plain text, with its exact length."""
    answer = await FixedStatus(status).respond(*asked("GET", "/health"))

    assert (answer.status, answer.body, answer.content_length) == (status, body, len(body))


async def test_head_has_no_body() -> None:
    """HEAD is answered with the length alone."""
    answer = await FixedStatus(200).respond(*asked("HEAD", "/health"))

    assert (answer.body, answer.content_length) == (None, 7)


def test_writes_a_head() -> None:
    """The head is a status line, the headers, the length and, unless kept alive, Connection: close."""
    answer = HttpResponse(200, [("Content-Type", "text/plain")], body=b"hello", content_length=5)

    assert (
        answer.encode_head(keep_alive=True)
        == b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n"
    )
    assert answer.encode_head(keep_alive=False).endswith(b"Content-Length: 5\r\nConnection: close\r\n\r\n")


def test_leaving_an_answer_closes_its_source() -> None:
    """An answer is a context manager that gives back the source of its body."""

    class Source:
        closed = 0

        async def read(self) -> bytes:
            return b""

        def close(self) -> None:
            self.closed += 1

    source = Source()
    with HttpResponse(200, [], body_stream=source, content_length=1):
        assert source.closed == 0

    assert source.closed == 1


def test_plain_answers_are_never_sniffed_or_stored() -> None:
    """Error pages say nosniff and no-store."""
    names = {name for name, _ in plain_text_response(404, "GET").headers}

    assert {"X-Content-Type-Options", "Cache-Control", "Content-Type"} <= names
