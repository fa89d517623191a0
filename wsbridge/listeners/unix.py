"""Unix listeners: `unix:/path`, with mode and owner; stale files are replaced, live ones respected.

Lives here: binding, and removing the file again. Must not live here: accepting.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from wsbridge.listeners.listening import ListenError, Listening, words

if TYPE_CHECKING:
    from wsbridge.config.model import Listener


async def listen(name: str, config: Listener) -> Listening:
    """Open a Unix listener. The file has its mode and owner before anybody can connect.

    Args:
        name: The listener's name, for messages.
        config: Its section; `bind`, `mode`, `owner` and `backlog` are used.

    Raises:
        ListenError: somebody listens there, something other than a socket is there, or it may not be made.
    """
    return await trio.to_thread.run_sync(_open, name, config)


def _open(name: str, config: Listener) -> Listening:
    """Runs in a thread: files, and a user database that may be a network away."""
    path = Path(config.bind.path)
    owner = _owner(name, config)
    _make_room(name, config, path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    made: os.stat_result | None = None
    try:
        sock.bind(str(path))
        made = path.lstat()
        path.chmod(config.mode)
        if owner is not None:
            os.chown(path, *owner)
        sock.listen(config.backlog)
    except OSError as error:
        sock.close()
        if made is not None:
            _remove(path, made)
        raise ListenError(name, config.bind, _why(error, path, config), error.errno or 0) from None
    ours = made
    return Listening(name, [sock], [str(config.bind)], lambda: _remove(path, ours))


def _why(error: OSError, path: Path, config: Listener) -> str:
    if error.errno == errno.ENOENT:
        return f"the folder {path.parent} does not exist"
    if error.errno == errno.EPERM and config.owner:
        return f"it may not be given to {config.owner} (that needs root or CAP_CHOWN)"
    return words(error)


def _owner(name: str, config: Listener) -> tuple[int, int] | None:
    """Numbers of the user and the group that are to own the file; -1 leaves the group as it is."""
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


def _make_room(name: str, config: Listener, path: Path) -> None:
    """Remove a socket file that nobody listens at any more."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenError(name, config.bind, words(error), error.errno or 0) from None
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
        why = f"the stale socket file cannot be removed: {words(error)}"
        raise ListenError(name, config.bind, why, error.errno or 0) from None


def _remove(path: Path, ours: os.stat_result) -> None:
    """Remove the socket file, unless it is another's by now."""
    with contextlib.suppress(OSError):
        found = path.lstat()
        if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
            path.unlink()
