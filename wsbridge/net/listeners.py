"""Open TCP and Unix listeners.

`trio.open_tcp_listeners` opens no Unix sockets, and none of its errors names the listener.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from wsbridge.net.address import Address, local_address, to_sockaddr
from wsbridge.worker_thread import NoThreadError, run_in_thread

if TYPE_CHECKING:
    from wsbridge.config.listener import ListenerConfig


_LISTEN_ERROR_TEXTS = {
    errno.EADDRINUSE: "address already in use",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EAFNOSUPPORT: "this machine has no such kind of address (is IPv6 off?)",
    errno.EMFILE: "too many open files (raise LimitNOFILE)",
}


class ListenError(OSError):
    """A listener cannot be opened; the text is one sentence that names the listener and the address.

    Attributes:
        listener: Its name.
        bind: The address, as configured.
        problem: Its code in the table of problems; empty where it has none.
    """

    def __init__(self, name: str, bind: object, text: str, code: int = 0, *, problem: str = "") -> None:
        super().__init__(code, f'listener "{name}": cannot listen on {bind}: {text}')
        self.listener, self.bind, self.problem = name, str(bind), problem

    def __str__(self) -> str:
        return str(self.strerror)


def listen_error_text(error: OSError, port: int = 0) -> str:
    """Describe why a listener cannot be opened, with a remedy where the text of the system has none."""
    code = error.errno or 0
    if code in (errno.EACCES, errno.EPERM) and 0 < port < 1024:
        return f"{os.strerror(code).lower()} (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
    return _LISTEN_ERROR_TEXTS.get(code) or (os.strerror(code).lower() if code else str(error))


_Result = TypeVar("_Result")


async def listen_in_thread(name: str, bind: object, work: Callable[[], _Result]) -> _Result:
    """Do a step of opening a listener in a thread, which is abandoned when this is cancelled.

    Args:
        name: The listener's name, for messages.
        bind: Its address, for messages.
        work: The step; what it raises is raised here.

    Raises:
        ListenError: There is no thread to be had.
    """
    try:
        return await run_in_thread(work)
    except NoThreadError as error:
        text = f"{error.strerror} (raise TasksMax= of a systemd unit)"
        raise ListenError(name, bind, text, error.errno or 0) from None


ListenerKey = tuple[str, bool, str]


def listener_key(name: str, config: ListenerConfig) -> ListenerKey:
    """Give what a listener is bound to: a reload keeps its sockets open if this stays the same.

    Args:
        name: The listener's name, which counts only where the system chooses the port.
        config: Its section.
    """
    chosen_by_system = config.bind.kind == "tcp" and config.bind.port == 0
    return str(config.bind), config.ipv6_only, name if chosen_by_system else ""


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file of a bound Unix socket, by which clients find it.

    Attributes:
        path: Where it was created.
        device: Of its inode.
        inode: Its number: another process may put another file at the path.
    """

    path: str
    device: int
    inode: int

    def exists(self) -> bool:
        """Return whether this very file is still there."""
        try:
            found = os.lstat(self.path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (self.device, self.inode)

    def remove(self) -> None:
        """Remove the file, unless another process has replaced it."""
        with contextlib.suppress(OSError):
            if self.exists():
                Path(self.path).unlink()


@dataclass(slots=True)
class ListeningSockets:
    """Open, non-blocking, listening sockets of one listener.

    Attributes:
        name: The listener's name in the configuration; a reload may change it.
        key: What it is bound to; see `listener_key`.
        sockets: One, or two for `localhost` (IPv4 and IPv6).
        addresses: The bound address of each as text, with the port that the system chose.
        file: That of a Unix socket, if it is to be removed at the end.
        is_passed: Whether the service manager has opened them: their backlogs outlive this process.
    """

    name: str
    key: ListenerKey
    sockets: list[socket.socket]
    addresses: list[str] = field(default_factory=list)
    file: SocketFile | None = None
    is_passed: bool = False

    def __post_init__(self) -> None:
        if not self.addresses:
            self.addresses = [local_address(sock) for sock in self.sockets]

    def is_reachable(self) -> bool:
        """Return whether clients find it: not at a Unix socket whose file was removed or replaced. Blocks."""
        return self.file is None or self.file.exists()

    def update_file(self, config: ListenerConfig) -> Callable[[], None]:
        """Give the file of a Unix socket the mode and the owner of a section that binds the same path. Blocks.

        Returns:
            What gives the file back those that it had before.

        Raises:
            ListenError: The owner is not known, or may not be set.
        """
        if config.bind.kind != "unix":
            return _do_nothing
        path = Path(config.bind.path)
        owner = _resolve_owner(self.name, config)
        before: os.stat_result | None = None

        def revert() -> None:
            with contextlib.suppress(OSError):
                if before is not None:
                    os.chown(path, before.st_uid, before.st_gid)
                    path.chmod(stat.S_IMODE(before.st_mode))

        try:
            before = path.lstat()
            path.chmod(config.mode)
            if owner is not None:
                os.chown(path, *owner)
        except OSError as error:
            revert()
            gone = error.errno == errno.ENOENT
            text = "its file was removed at the same time" if gone else _bind_error_text(error, path, config)
            raise ListenError(self.name, config.bind, text, error.errno or 0) from None
        return revert

    def set_backlog(self, backlog: int) -> None:
        """Give the open sockets another backlog; passed ones keep `Backlog=` of the .socket unit."""
        for sock in () if self.is_passed else self.sockets:
            sock.listen(backlog)

    def unlink(self) -> None:
        """Remove the file of a Unix socket if it is still ours, so that nobody connects any more."""
        file, self.file = self.file, None
        if file is not None:
            file.remove()

    def close(self) -> None:
        """Stop listening; a Unix socket's file is removed if it is still ours. Safe to call twice."""
        self.unlink()
        self.release()

    def release(self) -> None:
        """Close these copies of sockets that another process has, too: it accepts what waits in the backlog.

        The file of a Unix socket stays, since it belongs to that process now.
        """
        self.file = None
        for sock in self.sockets:
            sock.close()


def _do_nothing() -> None:
    """For what has no file."""


ListenFunction = Callable[[str, "ListenerConfig"], Awaitable[ListeningSockets]]


class InheritedSockets:
    """Listening sockets of another process, for the listeners that bind the same addresses.

    Args:
        found: The sockets of each of its listeners, and the file of a Unix socket, which stays the other's until `own`.

    Attributes:
        claimed: For each of them, whether a listener has them now.
    """

    def __init__(self, found: Sequence[tuple[ListeningSockets, SocketFile | None]] = ()) -> None:
        self._found = found
        self._reverts: list[Callable[[], None]] = []
        self.claimed = [False] * len(found)

    async def listen(self, name: str, config: ListenerConfig, open_new: ListenFunction) -> ListeningSockets:
        """Use the sockets that are bound to the address of a listener, or bind it.

        Args:
            name: The listener's name.
            config: Its section.
            open_new: Binds it.

        Raises:
            ListenError: It cannot be bound.
        """
        key = listener_key(name, config)
        for place, (listening, file) in enumerate(self._found):
            if listening.key == key and not self.claimed[place] and (file is None or file.exists()):
                revert = await listen_in_thread(name, config.bind, partial(listening.update_file, config))
                self._reverts.append(revert)
                listening.set_backlog(config.backlog)
                self.claimed[place] = True
                listening.name = name
                return listening
        return await open_new(name, config)

    def files_exist(self) -> bool:
        """Return whether clients find the Unix sockets that listeners have."""
        return all(
            file is None or file.exists() for (_, file), used in zip(self._found, self.claimed, strict=True) if used
        )

    def own(self) -> None:
        """Remove the files of Unix sockets at the end from now on; close the sockets that no listener has."""
        for (listening, file), claimed in zip(self._found, self.claimed, strict=True):
            if claimed:
                listening.file = file
        self._reverts = []
        self.close()

    def close(self) -> None:
        """Close the sockets that no listener has; before `own`, files get back the modes that they had."""
        for revert in self._reverts:
            revert()
        self._reverts = []
        for (listening, _), claimed in zip(self._found, self.claimed, strict=True):
            if not claimed:
                listening.release()
        self._found, self.claimed = (), []


SAME_PORT_ATTEMPTS: Final = 16
"""Attempts to find a port that is free in both families (port 0 on `localhost`)."""

_MISSING_FAMILY_ERRNOS: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


async def listen_tcp(name: str, config: ListenerConfig) -> ListeningSockets:
    """Open a TCP listener.

    `[::]` accepts IPv4 as well unless `ipv6_only` is set; `localhost` is 127.0.0.1 and ::1 on the same port (or the
    one that the machine has); a name is bound at all its addresses.

    Args:
        name: The listener's name, for messages.
        config: Its section; `bind`, `ipv6_only` and `backlog` are used.

    Raises:
        ListenError: The address cannot be bound.
    """
    bind = config.bind
    addresses, optional = await _bind_addresses(name, config)
    for attempt in range(SAME_PORT_ATTEMPTS):
        try:
            return ListeningSockets(name, listener_key(name, config), _bind_all(addresses, optional, config))
        except OSError as error:
            retry = error.errno == errno.EADDRINUSE and bind.port == 0 and len(addresses) > 1
            if not retry or attempt == SAME_PORT_ATTEMPTS - 1:
                raise ListenError(name, bind, listen_error_text(error, bind.port), error.errno or 0) from None
    raise AssertionError("the loop returns or raises")


async def _bind_addresses(name: str, config: ListenerConfig) -> tuple[list[Address], bool]:
    """Return the addresses to bind, and whether those of a family that the machine lacks may be omitted."""
    host, port = config.bind.host, config.bind.port
    if host.lower().rstrip(".") == "localhost":
        return [
            Address(socket.AF_INET, ("127.0.0.1", port)),
            Address(socket.AF_INET6, ("::1", port, 0, 0)),
        ], True
    try:
        found = await run_in_thread(lambda: _lookup_bind_addresses(host, port))
    except OSError as error:
        raise ListenError(name, config.bind, f"cannot look up the name: {error.strerror}", error.errno or 0) from None
    if not found:
        raise ListenError(name, config.bind, "the name has no address", errno.EADDRNOTAVAIL)
    return found, len(found) > 1


def _lookup_bind_addresses(host: str, port: int) -> list[Address]:
    """Runs in a thread."""
    rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    families = (socket.AF_INET, socket.AF_INET6)
    return list(dict.fromkeys(Address(int(row[0]), to_sockaddr(row[4])) for row in rows if row[0] in families))


def _bind_all(addresses: list[Address], allow_missing_family: bool, config: ListenerConfig) -> list[socket.socket]:
    """Bind every address, port 0 to one port for all; closes what it opened if one of them fails."""
    opened: list[socket.socket] = []
    port = config.bind.port
    try:
        for place, address in enumerate(addresses, 1):
            try:
                sock = _bind_tcp(address, port, config)
            except OSError as error:
                last_one = place == len(addresses) and not opened
                if not allow_missing_family or last_one or error.errno not in _MISSING_FAMILY_ERRNOS:
                    raise
                continue
            opened.append(sock)
            port = sock.getsockname()[1]
        for sock in opened:
            sock.listen(config.backlog)
    except BaseException:
        for sock in opened:
            sock.close()
        raise
    return opened


def _bind_tcp(address: Address, port: int, config: ListenerConfig) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        host, _, *scope = address.sockaddr
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::" or config.ipv6_only)
        sock.bind((host, port, *scope))
    except BaseException:
        sock.close()
        raise
    return sock


async def listen_unix(name: str, config: ListenerConfig) -> ListeningSockets:
    """Open a Unix listener. The file has its mode and owner before a client can connect.

    When this is cancelled, the thread is left behind, since user databases and file systems may hang; what it has
    opened is closed.

    Args:
        name: The listener's name, for messages.
        config: Its section; `bind`, `mode`, `owner` and `backlog` are used.

    Raises:
        ListenError: The address is in use, the path is something other than a socket, or it cannot be created.
    """
    opened: list[ListeningSockets] = []
    is_abandoned = False

    def run() -> ListeningSockets:
        opened.append(_open_unix(name, config))
        if is_abandoned:
            opened[0].close()
        return opened[0]

    try:
        return await listen_in_thread(name, config.bind, run)
    except trio.Cancelled:
        is_abandoned = True
        for listening in opened:  # at the same time as the thread, at worst
            listening.close()
        raise


def _open_unix(name: str, config: ListenerConfig) -> ListeningSockets:
    """Runs in a thread: file systems and user databases may be remote."""
    path = Path(config.bind.path)
    owner = _resolve_owner(name, config)
    _remove_stale_socket(name, config, path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    file: SocketFile | None = None
    try:
        sock.bind(str(path))
        made = path.lstat()
        file = SocketFile(str(path), made.st_dev, made.st_ino)
        path.chmod(config.mode)
        if owner is not None:
            os.chown(path, *owner)
        sock.listen(config.backlog)
    except OSError as error:
        sock.close()
        if file is not None:
            file.remove()
        raise ListenError(name, config.bind, _bind_error_text(error, path, config), error.errno or 0) from None
    return ListeningSockets(name, listener_key(name, config), [sock], [str(config.bind)], file)


def _bind_error_text(error: OSError, path: Path, config: ListenerConfig) -> str:
    if error.errno == errno.ENOENT:
        return f"the directory {path.parent} does not exist"
    if error.errno == errno.EPERM and config.owner:
        return f"cannot chown to {config.owner} (needs root or CAP_CHOWN; omit owner, or add the user to the group)"
    return listen_error_text(error)


def _resolve_owner(name: str, config: ListenerConfig) -> tuple[int, int] | None:
    """Return the IDs of the user and the group that will own the file; -1 leaves the group as it is."""
    if config.owner is None:
        return None
    user, _, group = config.owner.partition(":")
    try:
        uid = int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ListenError(name, config.bind, f'there is no user "{user}"') from None
    try:
        gid = -1 if not group else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ListenError(name, config.bind, f'there is no group "{group}"') from None
    return uid, gid


def _remove_stale_socket(name: str, config: ListenerConfig, path: Path) -> None:
    """Remove a socket file on which no process listens."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenError(name, config.bind, listen_error_text(error), error.errno or 0) from None
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenError(name, config.bind, "the file exists and is no socket", errno.EEXIST)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        code = probe.connect_ex(str(path))
    if code == errno.ENOENT:
        return
    if code != errno.ECONNREFUSED:
        live = code in (0, errno.EAGAIN, errno.EPROTOTYPE)
        why = "address already in use" if live else f"a socket is there already: {os.strerror(code).lower()}"
        raise ListenError(name, config.bind, why, errno.EADDRINUSE if live else code)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        why = f"the stale socket file cannot be removed: {listen_error_text(error)}"
        raise ListenError(name, config.bind, why, error.errno or 0) from None
