"""Upstreams for the tests: a server on loopback whose every connection runs one function of the test."""

import contextlib

import trio

from wsbridge.protocol.handshake import accept_key


class Upstream:
    """The port, and what the connections sent as request heads."""

    def __init__(self, port):
        self.port = port
        self.requests = []
        self.closed = trio.Event()


@contextlib.asynccontextmanager
async def upstream(serve, context=None):
    """Run `serve(stream, key)` for each connection once its request head has been read."""

    async def handle(stream):
        if context is not None:
            stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                data = await stream.receive_some(65536)
                if not data:
                    return
                head += data
            state.requests.append(head.decode())
            lines = head.decode().split("\r\n")
            keys = [line.partition(": ")[2] for line in lines if line.startswith("Sec-WebSocket-Key")]
            await serve(stream, keys[0])
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await trio.aclose_forcefully(stream)
            state.closed.set()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        state = Upstream(listener.socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        with trio.fail_after(30):
            yield state
        nursery.cancel_scope.cancel()


def says(answer, *, close=False):
    """A server that answers these bytes (`{accept}` is filled in), then waits for the end or ends."""

    async def serve(stream, key):
        await stream.send_all(answer.replace(b"{accept}", accept_key(key).encode()))
        if not close:
            await wait_for_end(stream)

    return serve


async def wait_for_end(stream):
    """Read until the dialler ends the connection."""
    while await stream.receive_some(65536):
        pass


SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: {accept}\r\n"
)
