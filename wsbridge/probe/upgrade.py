"""The request for a WebSocket, and the answer as far as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import trio

from wsbridge.net.transport import SocketTransport
from wsbridge.protocol.handshake import encode_upgrade_request, generate_key
from wsbridge.protocol.http1 import ANSWERED_IN_TLS, MAX_RESPONSE_HEAD_BYTES, NOT_HTTP, Response, ResponseParser
from wsbridge.reasons import Rejected

MAX_BODY_BYTES: Final = 4096
"""Bytes of the body of an answer that are read."""
BODY_TIMEOUT: Final = 1.0
"""Seconds within which they are read."""
_MAX_FIRST_BYTES: Final = 256

AnswerProblem = Literal["timeout", "closed", "reset", "cut", "tls", "not_http", "invalid", ""]


@dataclass(slots=True)
class UpgradeAnswer:
    """What came back for an upgrade request.

    Attributes:
        key: The Sec-WebSocket-Key that was sent.
        seconds: Until the head of the answer was complete, or until it failed.
        response: The head; None where there is no valid one.
        body: The beginning of the body; for a 101, what came behind the head.
        problem: Why there is no response: nothing within the timeout, the connection closed or reset without an answer,
            an answer that ended within its head (`cut`), one in TLS, in another protocol than HTTP, or an invalid head.
        detail: A sentence about the problem.
        first_bytes: How the answer begins.
    """

    key: str
    seconds: float = 0.0
    response: Response | None = None
    body: bytes = b""
    problem: AnswerProblem = ""
    detail: str = ""
    first_bytes: bytes = b""

    @property
    def status(self) -> int:
        """The status; 0 for no response."""
        return 0 if self.response is None else self.response.status


async def ask_for_upgrade(
    transport: SocketTransport,
    host: str,
    resource: str,
    *,
    subprotocols: Sequence[str],
    headers: Sequence[tuple[str, str]],
    origin: str | None,
    timeout: float,
) -> UpgradeAnswer:
    """Send an upgrade request and read the answer.

    Args:
        transport: Connected; stays open.
        host: Host header.
        resource: Path and query.
        subprotocols: To offer.
        headers: Further headers.
        origin: Origin header, or None.
        timeout: Seconds until the head of the answer must be complete.

    Raises:
        ValueError: Something cannot be sent.
    """
    answer = UpgradeAnswer(generate_key())
    request = encode_upgrade_request(host, resource, answer.key, subprotocols, headers, origin)
    parser = ResponseParser(MAX_RESPONSE_HEAD_BYTES)
    started = trio.current_time()
    try:
        with trio.fail_after(timeout):
            await transport.write_all(request)
            await _read_head(transport, parser, answer)
    except trio.TooSlowError:
        answer.problem = "timeout"
        cut = " after the beginning of an answer" if answer.first_bytes else ""
        answer.detail = f"no answer within {timeout:g} s{cut}"
    except Rejected as rejected:
        known: dict[str, AnswerProblem] = {ANSWERED_IN_TLS: "tls", NOT_HTTP: "not_http"}
        answer.problem, answer.detail = known.get(rejected.detail, "invalid"), rejected.detail
    except OSError as error:
        answer.problem, answer.detail = "reset", str(error) or "connection reset"
    answer.seconds = trio.current_time() - started
    if answer.response is not None:
        answer.body = parser.trailing_data
        if answer.status != 101:
            await _read_body(transport, answer)
    return answer


async def _read_head(transport: SocketTransport, parser: ResponseParser, answer: UpgradeAnswer) -> None:
    while answer.response is None:
        data = await transport.read_some()
        if not data:
            status = parser.status_so_far
            answer.problem = "cut" if answer.first_bytes else "closed"
            answer.detail = (
                f"answered {status} and closed the connection within the head of the answer"
                if status is not None
                else "closed the connection without an answer"
                if not answer.first_bytes
                else "closed the connection within the head of its answer"
            )
            return
        if len(answer.first_bytes) < _MAX_FIRST_BYTES:
            answer.first_bytes += data[: _MAX_FIRST_BYTES - len(answer.first_bytes)]
        answer.response = parser.feed(data)


async def _read_body(transport: SocketTransport, answer: UpgradeAnswer) -> None:
    """Read the beginning of the body, as far as it comes soon."""
    assert answer.response is not None  # noqa: S101  (checked by the caller)
    length = (answer.response.headers.get(b"content-length") or b"").decode("latin-1")
    wanted = min(int(length[:9]), MAX_BODY_BYTES) if length.isascii() and length.isdigit() else MAX_BODY_BYTES
    body = bytearray(answer.body)
    try:
        with trio.move_on_after(BODY_TIMEOUT):
            while len(body) < wanted:
                data = await transport.read_some()
                if not data:
                    break
                body += data
    except OSError:
        pass
    answer.body = bytes(body[:MAX_BODY_BYTES])
