"""Socket activation: listening sockets that the service manager opened and passed to this process (sd_listen_fds(3)).

```
wsbridge.socket ─► systemd: bind, listen ─► fork, exec ─► LISTEN_FDS=1, descriptor 3 ─► bind: fd:NAME
                        └── keeps the sockets open: what connects while wsbridge restarts waits in the backlog
```
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Final

from wsbridge.net.listeners import ListenError, ListeningSockets, listener_key

if TYPE_CHECKING:
    from wsbridge.config.listener import ListenerConfig

FIRST_PASSED_FD: Final = 3
"""SD_LISTEN_FDS_START: the first descriptor that is passed; the others follow it."""

UNNAMED: Final = "unknown"
"""The name of descriptors whose names were not passed (sd_listen_fds_with_names(3))."""

NO_SOCKET_PROBLEM: Final = "E043"
UNUSED_SOCKET_PROBLEM: Final = "W033"

_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_FAMILIES: Final = frozenset({socket.AF_INET, socket.AF_INET6, socket.AF_UNIX})


class PassedSockets:
    """The descriptors that were passed, by name. They stay open until `close`, so that a reload can use each again.

    Args:
        descriptors: The descriptors of each name.
    """

    def __init__(self, descriptors: Mapping[str, list[int]] | None = None) -> None:
        self._descriptors = dict(descriptors or {})

    async def listen(self, name: str, config: ListenerConfig) -> ListeningSockets:
        """Listen at the sockets of the name in `bind`: all of them, such as one for IPv4 and one for IPv6.

        Closing what this returns does not close the sockets themselves, which the service manager holds open anyway.

        Args:
            name: The listener's name, for messages.
            config: Its section; `bind` is used.

        Raises:
            ListenError: No socket of this name was passed, or one that does not listen for streams.
        """
        descriptors = self._descriptors.get(config.bind.name)
        if descriptors is None:
            raise ListenError(name, config.bind, self._missing_text(), problem=NO_SOCKET_PROBLEM)
        opened: list[socket.socket] = []
        try:
            for descriptor in descriptors:
                opened.append(_listening_socket(descriptor))
        except (OSError, ValueError) as error:
            for sock in opened:
                sock.close()
            text = f"descriptor {descriptor} {error}"
            raise ListenError(name, config.bind, text, problem=NO_SOCKET_PROBLEM) from None
        return ListeningSockets(name, listener_key(name, config), opened, is_passed=True)

    def _missing_text(self) -> str:
        if not self._descriptors:
            return "no sockets were passed: start wsbridge together with its .socket unit (systemctl start NAME.socket)"
        names = ", ".join(f"fd:{name}" for name in self._descriptors)
        return f"no socket of this name was passed at the start, but {names} (FileDescriptorName= of .socket units)"

    def unused(self, listeners: Iterable[ListenerConfig]) -> list[str]:
        """Return the names that no listener has; clients that connect there would wait forever."""
        used = {listener.bind.name for listener in listeners if listener.bind.kind == "fd"}
        return [name for name in self._descriptors if name not in used]

    def take(self, prefix: str) -> dict[str, list[int]]:
        """Remove and return the descriptors whose names begin so: no listener has them, but the caller."""
        found = {name: numbers for name, numbers in self._descriptors.items() if name.startswith(prefix)}
        self._descriptors = {name: numbers for name, numbers in self._descriptors.items() if name not in found}
        return found

    def close(self) -> None:
        """Close the descriptors. Safe to call twice."""
        for descriptors in self._descriptors.values():
            for descriptor in descriptors:
                os.close(descriptor)
        self._descriptors = {}


def receive_sockets(environ: MutableMapping[str, str], first: int = FIRST_PASSED_FD) -> PassedSockets:
    """Return what was passed to this process, and remove it from the environment, so that no child process uses it.

    Args:
        environ: For LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES.
        first: The first descriptor.

    Raises:
        ValueError: The variables contradict each other, or there is no such descriptor; one sentence.
    """
    pid, count, names = (environ.get(key) for key in _VARIABLES[:3])
    for key in _VARIABLES:
        environ.pop(key, None)
    if pid != str(os.getpid()) or not count:
        return PassedSockets()
    if not count.isdecimal():
        raise ValueError(f'LISTEN_FDS: "{count}" is not a number of descriptors')
    descriptors = range(first, first + int(count))
    written = [UNNAMED] * len(descriptors) if names is None else names.split(":") if names else []
    if len(written) != len(descriptors):
        raise ValueError(f"LISTEN_FDNAMES has {len(written)} names for {len(descriptors)} descriptors of LISTEN_FDS")
    found: dict[str, list[int]] = {}
    for descriptor, name in zip(descriptors, written, strict=True):
        try:
            os.set_inheritable(descriptor, False)
        except OSError as error:
            raise ValueError(f"LISTEN_FDS: descriptor {descriptor}: {os.strerror(error.errno or 0).lower()}") from None
        found.setdefault(name, []).append(descriptor)
    return PassedSockets(found)


def _listening_socket(descriptor: int) -> socket.socket:
    """Return a socket of our own for a descriptor.

    Raises:
        ValueError: It does not listen for streams; what follows "descriptor N".
        OSError: It cannot be duplicated.
    """
    copy = os.dup(descriptor)
    try:
        sock = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise ValueError("is not a socket") from None
    try:
        _check_socket(sock)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _check_socket(sock: socket.socket) -> None:
    if sock.family not in _FAMILIES:
        raise ValueError("is neither an IPv4, an IPv6 nor a Unix socket")
    if sock.type != socket.SOCK_STREAM:
        raise ValueError("is not a stream socket: write ListenStream=")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ValueError("does not listen: the .socket unit must have Accept=no")
