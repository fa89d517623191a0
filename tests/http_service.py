"""An HTTP service of the test: what it answers is bytes, what it was asked is kept."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import trio

from tests.authority import server_context

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Says = Callable[["Service", str, Stream], Awaitable[None]]


def answer(status: int = 200, *headers: str, body: bytes = b"", length: int | None = None) -> bytes:
    """Write an answer."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {size}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


class Service:
    """A service that runs.

    Attributes:
        port: Where it listens; 0 on a Unix socket.
        answers: What it answers: bytes, or a function that does as it likes and then closes.
        asked: The heads of all requests.
        dials: How many connections came.
        open: How many are open.
    """

    def __init__(self, answers: bytes | Says) -> None:
        self.port = 0
        self.answers = answers
        self.asked: list[str] = []
        self.dials = self.open = 0

    async def until(self, **counts: int) -> None:
        """Wait until the counts are these; `requests` is how often it was asked."""
        with trio.fail_after(30):
            while any((len(self.asked) if n == "requests" else getattr(self, n)) != c for n, c in counts.items()):
                await trio.sleep(0.005)

    def header(self, name: str, at: int = -1) -> list[str]:
        """Give the values of a header of one request."""
        lines = [line.partition(": ") for line in self.asked[at].split("\r\n")[1:]]
        return [value for key, _, value in lines if key.lower() == name.lower()]

    async def _serve(self, plain: trio.SocketStream, *, tls: bool) -> None:
        self.dials += 1
        self.open += 1
        stream: Stream = plain
        try:
            if tls:
                stream = trio.SSLStream(plain, server_context(), server_side=True, https_compatible=True)
                await stream.do_handshake()
            buffer = b""
            while True:
                while b"\r\n\r\n" not in buffer:
                    data = await stream.receive_some(65536)
                    if not data:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                self.asked.append(head.decode("latin-1"))
                if callable(self.answers):
                    await self.answers(self, self.asked[-1], stream)
                    return
                await stream.send_all(self.answers)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionError):
            pass
        finally:
            self.open -= 1
            plain.socket.close()


@contextlib.asynccontextmanager
async def service(
    answers: bytes | Says = b"", *, tls: bool = False, path: Path | None = None, port: int = 0
) -> AsyncIterator[Service]:
    """Run a service on 127.0.0.1, or at a path."""
    state = Service(answers or answer())
    if path is None:
        (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
        state.port = listener.socket.getsockname()[1]
    else:
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(path))
        sock.listen()
        listener = trio.SocketListener(sock)

    async def serve(stream: trio.SocketStream) -> None:
        await state._serve(stream, tls=tls)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            yield state
            nursery.cancel_scope.cancel()
    finally:
        listener.socket.close()
