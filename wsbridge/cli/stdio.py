"""Standard input and output as a connection, for `bridge -`.

Lives here: a pair of sockets whose one end the spine gets as a raw connection, and two threads that copy between the
other end and the descriptors 0 and 1. Must not live here: what the connection leads to.

The threads exist because 0 and 1 may be anything (a terminal, a regular file, a pipe shared with other programs): they
are never made non-blocking and never meet epoll. The threads are daemons, so that a terminal on which nobody types
keeps no process alive.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import suppress
from typing import Final

import trio

from wsbridge.cli.bridge_config import BRIDGE_NAME, STDIO
from wsbridge.cli.main import EXIT_USAGE, CliError
from wsbridge.cli.run import is_clean
from wsbridge.connection import Connection
from wsbridge.generation import Listener
from wsbridge.protocol.uri import HostPatterns
from wsbridge.reasons import Reason, Termination
from wsbridge.server import Server

STDIO_CHUNK_BYTES: Final = 64 * 1024
"""Bytes copied at a time."""
INPUT_GRACE_SECONDS: Final = 0.5
"""Seconds that the input may be silent after the other side has ended."""


class StdioConnection:
    """One connection between standard input and output and the route of the server.

    Args:
        reads: Descriptor to read from.
        writes: Descriptor to write to.

    Attributes:
        termination: How the connection ended; None before.
        write_error: Why the output could not be written.
    """

    def __init__(self, input_fd: int = 0, output_fd: int = 1) -> None:
        for number, name in ((input_fd, "input"), (output_fd, "output")):
            try:
                os.fstat(number)
            except OSError:
                raise CliError(f"-: standard {name} is closed", EXIT_USAGE) from None
        self._input_fd, self._output_fd = input_fd, output_fd
        self.termination: Termination | None = None
        self.write_error: str | None = None

    async def run(self, server: Server) -> None:
        """Carry the connection to its end and its output out, then have the server end."""
        inner, outer = socket.socketpair()
        inner.setblocking(False)
        outer.setblocking(True)
        written = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def copy_out() -> None:
            self._copy_out(outer)
            with suppress(trio.RunFinishedError):  # ended by a signal meanwhile
                token.run_sync_soon(written.set)

        threading.Thread(target=self._copy_in, args=(outer,), name="wsbridge-stdin", daemon=True).start()
        threading.Thread(target=copy_out, name="wsbridge-stdout", daemon=True).start()
        route = server.generation.routes[BRIDGE_NAME]
        listener = Listener(
            STDIO, "tcp", None, host_names=HostPatterns(()), is_unix=True, route=route, routes=(), allow_http=True
        )
        context = server.new_context(listener)
        server.connections[context.id] = context
        try:
            connection = Connection(inner, context, listener, server.generation, server.services)
            self.termination = await connection.run(None)
        finally:
            del server.connections[context.id]
        await written.wait()
        server.stop(Reason.SHUTDOWN)

    def failure_message(self) -> str | None:
        """Give the sentence about what went wrong; None if the connection ended in order."""
        end = self.termination
        if self.write_error is not None:
            return f"standard output: {self.write_error}"
        if end is None:
            return "the connection was not started"
        if is_clean(end):
            return None
        code = "" if end.close_code is None else f" (close code {end.close_code})"
        return f"{end.reason.value}{code}" + (f": {end.detail}" if end.detail else "")

    def _copy_in(self, sock: socket.socket) -> None:
        """Copy the input into the connection, and its end as a half-close.

        Once the other side has ended what it sends, an input that says nothing for `GRACE` counts as ended too: nobody
        may be there to end it.
        """
        poll = select.poll()
        poll.register(self._input_fd, select.POLLIN)
        poll.register(sock, select.POLLRDHUP)
        patience: float | None = None
        with suppress(OSError):  # a terminal that hung up, or a connection that has ended: nothing more will come
            while events := dict(poll.poll(patience)):
                if sock.fileno() in events:
                    poll.unregister(sock)
                    patience = INPUT_GRACE_SECONDS * 1000
                elif data := _read_available(self._input_fd):
                    sock.sendall(data)
                elif data is not None:
                    break
        with suppress(OSError):  # the connection has ended already
            sock.shutdown(socket.SHUT_WR)

    def _copy_out(self, sock: socket.socket) -> None:
        """Copy what the connection brings to the output, until it ends; then end the output."""
        with suppress(ConnectionError):  # reset: what came before it has been written
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
    """Read what is there; None if somebody else took it."""
    try:
        return os.read(fd, STDIO_CHUNK_BYTES)
    except BlockingIOError:
        return None


def _write_all(fd: int, data: bytes) -> None:
    """Write all of it, waiting for room even if somebody made the descriptor non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
