"""A spare file descriptor, for when all others are in use."""

from __future__ import annotations

import os
import socket

from wsbridge.net.transport import reset_socket


class ReservedFd:
    """A spare descriptor: when all others are in use, a waiting client can still be accepted, to be served or reset."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self.reserve()

    def reserve(self) -> bool:
        """Reserve a descriptor, unless one is reserved already; False if there is none."""
        if self._fd is None:
            try:
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return False
        return True

    def accept(self, listening_socket: socket.socket) -> socket.socket | None:
        """Accept one connection with the reserved descriptor; once that is closed, call `reserve`.

        Raises:
            BlockingIOError: Nobody waits.

        Returns:
            The connection; None if not even that was possible.
        """
        self.close()
        try:
            sock, _ = listening_socket.accept()
        except BlockingIOError:
            self.reserve()
            raise
        except OSError:
            self.reserve()
            return None
        return sock

    def accept_and_reset(self, listening_socket: socket.socket) -> bool:
        """Accept one connection with the reserved descriptor and reset it.

        Returns:
            False if not even that was possible.
        """
        try:
            sock = self.accept(listening_socket)
        except BlockingIOError:
            return self._fd is not None
        if sock is None:
            return False
        reset_socket(sock)
        return self.reserve()

    def close(self) -> None:
        """Release it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
