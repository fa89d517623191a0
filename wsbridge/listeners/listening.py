"""Listening: the open sockets of one listener, and the error of one that cannot be opened.

Lives here: what `tcp` and `unix` give back. Must not live here: accepting (`accept`), or any kind of address.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from wsbridge.net.address import local_name

_WORDS = {
    errno.EADDRINUSE: "address already in use",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EAFNOSUPPORT: "this machine has no such kind of address (is IPv6 off?)",
    errno.EMFILE: "too many open files (raise LimitNOFILE)",
}


class ListenError(OSError):
    """A listener cannot be opened; the text is one sentence that names the listener and the address."""

    def __init__(self, name: str, bind: object, why: str, code: int = 0) -> None:
        super().__init__(code, f'listener "{name}": cannot listen on {bind}: {why}')

    def __str__(self) -> str:
        return str(self.strerror)


def words(error: OSError, port: int = 0) -> str:
    """What went wrong, in words that say what to do where the system's do not."""
    code = error.errno or 0
    if code in (errno.EACCES, errno.EPERM) and 0 < port < 1024:
        return f"{os.strerror(code).lower()} (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
    return _WORDS.get(code) or (os.strerror(code).lower() if code else str(error))


@dataclass(slots=True)
class Listening:
    """Open, non-blocking, listening sockets of one listener.

    Attributes:
        name: The listener's name in the configuration.
        sockets: One, or two for `localhost` (IPv4 and IPv6).
        addresses: The real address of each, in its text form, with the port that the system chose.
    """

    name: str
    sockets: list[socket.socket]
    addresses: list[str] = field(default_factory=list)
    _clean_up: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        if not self.addresses:
            self.addresses = [local_name(sock) for sock in self.sockets]

    def close(self) -> None:
        """Stop listening; a Unix socket's file is removed if it is still ours. Safe to call twice."""
        clean_up, self._clean_up = self._clean_up, None
        if clean_up is not None:
            clean_up()
        for sock in self.sockets:
            sock.close()
