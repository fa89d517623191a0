"""A connection of which another process may have a descriptor as well (SCM_RIGHTS, unix(7)): how it ends.

Closing a descriptor does nothing as long as there are others: in the other process, in a message that nobody has read
yet, or in a store. So a connection that is on its way is first made to end with a reset wherever its last descriptor
is closed. The process that adopts it sets that back, which also shows that it has been adopted.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import socket
import struct
from collections.abc import Callable
from typing import Final

_LINGER: Final = struct.Struct("ii")
_UNSPECIFIED_ADDRESS: Final = bytes(16)
"""A sockaddr of the family AF_UNSPEC, 0."""


def set_reset_on_close(sock: socket.socket, *, resets: bool) -> None:
    """Have the kernel reset a TCP connection when its last descriptor is closed, or have it send FIN again (socket(7)).

    A Unix socket has no reset; it keeps the setting all the same. A connection that is over is no error.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.pack(resets, 0))


def resets_on_close(sock: socket.socket) -> bool:
    """Return what `set_reset_on_close` has set last, in whatever process."""
    is_on, seconds = _LINGER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.size))
    return bool(is_on) and not seconds


def reset_shared_socket(sock: socket.socket) -> None:
    """End a connection at once, TCP with a reset, even if other processes have descriptors of it; close this one.

    Where the C library has no connect(2), TCP is reset once the last descriptor is closed.
    """
    set_reset_on_close(sock, resets=True)
    connect = _c_connect()
    if sock.family == socket.AF_UNIX:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
    elif connect is not None:  # connect(2): AF_UNSPEC dissolves the association, in every process
        connect(sock.fileno(), _UNSPECIFIED_ADDRESS, len(_UNSPECIFIED_ADDRESS))
    sock.close()


@functools.cache
def _c_connect() -> Callable[[int, bytes, int], int] | None:
    """Return connect(2), since Python's takes no address of another family; None if there is no C library."""
    try:
        function = ctypes.CDLL(None).connect
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function
