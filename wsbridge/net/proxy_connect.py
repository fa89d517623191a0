"""HTTP CONNECT: a way through a proxy on a wire that is already connected to it (RFC 9110 section 9.3.6).

Lives here: the request, the judgement of the answer. Must not live here: dialling the proxy, which proxy it is
(`proxy`), what is spoken through it. The user and the password go to the proxy and nowhere else.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import unquote

from wsbridge.config.address import Proxy
from wsbridge.log.redact import HIDDEN
from wsbridge.net.address import host_port
from wsbridge.net.dial import DialFailure
from wsbridge.protocol.head import BadHead, HeadLimits, Response, shown
from wsbridge.protocol.http1 import HeadReader, header_lines
from wsbridge.reasons import Reason

if TYPE_CHECKING:
    from wsbridge.net.wire import Wire

SHORTEST_SECRET = 4
"""Characters of a password below which it is not looked for in answers: it would hide half of every sentence."""

_TRY_LATER = frozenset({429, 502, 503, 504})


async def through(wire: Wire, host: str, port: int, proxy: Proxy, limits: HeadLimits) -> DialFailure | None:
    """Ask a proxy for a tunnel; the deadline is the caller's.

    Bytes that came after the answer are put back into the wire. The wire stays the caller's, to be closed on failure.

    Args:
        wire: Connected to the proxy, nothing sent yet.
        host: Whom to reach: name or address.
        port: The port there.
        proxy: Named in failures; its user and password go along as Basic authentication (RFC 7617).
        limits: How large the answer's head may be.

    Returns:
        None when the tunnel stands; else why it does not.
    """
    authority = host_port(host, port)
    lines = [("Host", authority)]
    if proxy.user or proxy.password is not None:
        lines.append(("Proxy-Authorization", _basic(proxy)))
    request = f"CONNECT {authority} HTTP/1.1\r\n{''.join(header_lines(lines))}\r\n"
    reader = HeadReader(limits, "client")
    try:
        await wire.write_all(request.encode("ascii"))
        while True:
            data = await wire.read_some()
            if not data:
                return _refused(proxy, "closed the connection before it answered")
            answer = reader.feed(data)
            if answer is not None:
                break
    except OSError as error:
        return _refused(proxy, f"broke the connection before it answered: {error.strerror or error}")
    if not isinstance(answer, Response):
        return _refused(proxy, f"gave no proper answer: {answer.text if isinstance(answer, BadHead) else ''}")
    if 200 <= answer.status < 300:
        wire.unread(reader.rest)
        return None
    words = f" {shown(answer.reason, 80)}" if answer.reason else ""
    return _refused(proxy, f"answered {answer.status}{words} to CONNECT {authority}", answer.status not in _TRY_LATER)


def _refused(proxy: Proxy, text: str, final: bool = False) -> DialFailure:
    """Tell of a refusal, without our password, should the proxy repeat it."""
    if proxy.password is not None:
        password = proxy.password.reveal()
        for secret in (_basic(proxy).partition(" ")[2], password, unquote(password)):
            if len(secret) >= SHORTEST_SECRET:
                text = text.replace(secret, HIDDEN)
    return DialFailure(Reason.BACKEND_REFUSED, f"the proxy {proxy} {text}", final)


def _basic(proxy: Proxy) -> str:
    password = proxy.password.reveal() if proxy.password is not None else ""
    return "Basic " + b64encode(f"{unquote(proxy.user)}:{unquote(password)}".encode()).decode("ascii")
