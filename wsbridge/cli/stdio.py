"""Standard input and output as a connection, for `bridge -`.

Two threads copy between the descriptors 0 and 1 and one end of a socket pair; the other end is served as a raw
connection. The descriptors may be anything (a terminal, a regular file, a pipe shared with other programs), so they are
never made non-blocking and never registered with epoll. The threads are daemons: a terminal on which nobody types does
not keep the process alive.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Final

import trio

from wsbridge.cli.bridge_config import BRIDGE_NAME, STDIO
from wsbridge.cli.run import is_clean
from wsbridge.connection import Connection
from wsbridge.generation import Listener, RouteTable
from wsbridge.protocol.uri import HostPatterns
from wsbridge.reasons import Reason, Termination
from wsbridge.server import Server

STDIO_CHUNK_BYTES: Final = 64 * 1024
"""Bytes of one read."""
STREAM_NAMES: Final = {0: "input", 1: "output"}
DEFAULT_HOLD: Final = 2.0
"""Seconds without output after which the end of the input becomes a Close frame."""


class StdioConnection:
    """One connection between standard input and output and the route of the server.

    Args:
        input_fd: Descriptor to read from.
        output_fd: Descriptor to write to.
        hold: After the end of the input, seconds without data from a WebSocket target after which it is sent a Close
            frame; None: immediately.

    Attributes:
        termination: How the connection ended; None before.
        start_error: Why there was no thread for the input or the output.
        write_error: Why the output could not be written.
        unsent_bytes: Bytes of the input that the connection did not accept before it ended.
    """

    def __init__(self, input_fd: int = 0, output_fd: int = 1, hold: float | None = None) -> None:
        self._input_fd, self._output_fd = input_fd, output_fd
        self._hold = hold
        self._input_bytes = 0
        self._ended = trio.Event()
        self.termination: Termination | None = None
        self.start_error: str | None = None
        self.write_error: str | None = None
        self.unsent_bytes = 0

    async def run(self, server: Server) -> None:
        """Serve the connection to its end, write all of its output, then stop the server."""
        inner, outer = socket.socketpair()
        inner.setblocking(False)
        outer.setblocking(True)
        written = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def copy_out() -> None:
            self._copy_out(outer)
            with suppress(trio.RunFinishedError):  # a signal has ended the run
                token.run_sync_soon(written.set)

        route = server.generation.routes[BRIDGE_NAME]
        route = replace(route, relay_options=replace(route.relay_options, hold_close=self._hold))
        listener = Listener(
            STDIO,
            "tcp",
            None,
            host_names=HostPatterns(()),
            is_unix=True,
            route=route,
            routes=RouteTable(()),
            allow_http=True,
        )
        try:
            threading.Thread(target=self._copy_in, args=(outer,), name="wsbridge-stdin", daemon=True).start()
            threading.Thread(target=copy_out, name="wsbridge-stdout", daemon=True).start()
        except RuntimeError as error:  # there is none to be had
            self.start_error = str(error)
            inner.close()
            server.stop(Reason.SHUTDOWN)
            return
        context = server.acceptor.new_context(listener, server.generation)
        connection = Connection(inner, context, listener, server.generation, server.services, self)
        server.connections[context.id] = connection
        try:
            await connection.run(None)
            await self._ended.wait()
        finally:
            del server.connections[context.id]
        await written.wait()
        self.unsent_bytes = max(0, self._input_bytes - route.stats.bytes_to_backend)
        server.stop(Reason.SHUTDOWN)

    def connection_ended(self, connection: Connection, termination: Termination) -> None:
        """See `ConnectionOwner.connection_ended`."""
        self.termination = termination
        self._ended.set()

    def failure_message(self) -> str | None:
        """Describe what went wrong; None if the connection ended cleanly and all of the input was sent."""
        end = self.termination
        if self.start_error is not None:
            return f"standard input and output cannot be relayed: {self.start_error}"
        if self.write_error is not None:
            return f"standard output: {self.write_error}"
        if end is None:
            return "the connection was not started"
        if not is_clean(end):
            code = "" if end.close_code is None else f" (close code {end.close_code})"
            return f"{end.reason.value}{code}" + (f": {end.detail}" if end.detail else "")
        if self.unsent_bytes:
            return f"{end.reason.value}: {self.unsent_bytes} bytes of standard input were not sent"
        return None

    def _copy_in(self, sock: socket.socket) -> None:
        """Copy the input into the connection, and its end as a half-close.

        After the other side has ended what it sends, the input continues as long as `half_close` allows; but at a
        terminal it ends then, since nobody can know that it is still awaited.
        """
        poll = select.poll()
        poll.register(self._input_fd, select.POLLIN)
        poll.register(sock, select.POLLRDHUP)
        with suppress(OSError):  # a terminal that hung up, or a connection that has ended: no more can be sent
            while events := dict(poll.poll()):
                if sock.fileno() in events:
                    if os.isatty(self._input_fd) or events[sock.fileno()] & (select.POLLHUP | select.POLLERR):
                        break
                    poll.modify(sock, 0)  # its end (POLLHUP) is still reported
                elif data := _read_available(self._input_fd):
                    self._input_bytes += len(data)
                    sock.sendall(data)
                elif data is not None:
                    break
        with suppress(OSError):  # the connection has ended
            sock.shutdown(socket.SHUT_WR)

    def _copy_out(self, sock: socket.socket) -> None:
        """Copy what the connection sends to the output, until it ends; then end the output."""
        with suppress(ConnectionError):  # reset: the data before it has been written
            while data := sock.recv(STDIO_CHUNK_BYTES):
                try:
                    _write_all(self._output_fd, data)
                except OSError as error:
                    self.write_error = error.strerror or str(error)
                    sock.shutdown(socket.SHUT_RDWR)
                    break
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._output_fd)
        os.close(nowhere)


def _read_available(fd: int) -> bytes | None:
    """Read what is there; None if another process was faster."""
    try:
        return os.read(fd, STDIO_CHUNK_BYTES)
    except BlockingIOError:
        return None


def _write_all(fd: int, data: bytes) -> None:
    """Write all of it, waiting for room even if another process made the descriptor non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
