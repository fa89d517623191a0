"""systemd's file descriptor store: what is kept there over a restart of the service (sd_pid_notify_with_fds(3)).

```
this process                          systemd                            the next process
 ├── FDSTORE=1, FDNAME=…, descriptors ─►│ keeps them (FileDescriptorStoreMax=)
 ├── BARRIER=1, a pipe ────────────────►│ closes the pipe: it has all of them
 ends                                   ├── LISTEN_FDS, LISTEN_FDNAMES ──►│
                                        │◄── FDSTOREREMOVE=1, FDNAME=… ───┤ has them itself
```

systemd closes what is in the store when the service is stopped and not started again.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Final

import trio

STORE_TIMEOUT: Final = 5.0
"""Seconds in which systemd must take a message."""


class DescriptorStoreError(Exception):
    """The store takes nothing; one sentence."""


class DescriptorStoreFullError(DescriptorStoreError):
    """It has no room for these descriptors; there may be some for fewer."""


class DescriptorStore:
    """The store of this service.

    Args:
        environ: For NOTIFY_SOCKET, and FDSTORE, how many descriptors the store takes: systemd sets it from version 254
            on, and for older ones the unit does (systemd.exec(5)).

    Attributes:
        max_descriptors: How many descriptors it takes; 0: there is no store.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        path, most = environ.get("NOTIFY_SOCKET", ""), environ.get("FDSTORE", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.max_descriptors = int(most) if path[:1] in ("@", "/") and most.isdecimal() else 0
        self._stored = 0
        self._socket: trio.socket.SocketType | None = None

    def close(self) -> None:
        """Close the connection to systemd; the next message opens another one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def put(self, name: str, descriptors: Sequence[int]) -> None:
        """Put descriptors into the store, under one name; they stay open here as well.

        Args:
            name: At most 255 characters of ASCII, without a colon.
            descriptors: At most 253.

        Raises:
            DescriptorStoreFullError: There is no room.
            DescriptorStoreError: systemd does not respond.
        """
        count = self._stored + len(descriptors)
        if count > self.max_descriptors:
            text = f"the descriptor store is full: FileDescriptorStoreMax is {self.max_descriptors}"
            raise DescriptorStoreFullError(text)
        await self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", descriptors)
        self._stored = count

    async def remove(self, name: str) -> None:
        """Remove all descriptors of a name from the store.

        Raises:
            DescriptorStoreError: systemd does not respond.
        """
        await self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    async def wait_until_stored(self) -> None:
        """Wait until systemd has processed all messages: those of a process that has ended may be dropped.

        Raises:
            DescriptorStoreError: systemd does not respond.
        """
        reader, writer = os.pipe()
        try:
            try:
                await self._send("BARRIER=1", [writer])
            finally:
                os.close(writer)
            with trio.move_on_after(STORE_TIMEOUT) as scope:
                await trio.lowlevel.wait_readable(reader)
        finally:
            os.close(reader)
        if scope.cancelled_caught:
            raise DescriptorStoreError(f"systemd has not taken the descriptors within {STORE_TIMEOUT:g} s")

    async def _send(self, text: str, descriptors: Sequence[int] = ()) -> None:
        """Send a message, once systemd has room for it."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            with trio.fail_after(STORE_TIMEOUT):
                if self._socket is None:
                    self._socket = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    await self._socket.connect(self._address)
                await self._socket.sendmsg([text.encode()], rights)
        except trio.TooSlowError:
            raise DescriptorStoreError(f"systemd has not taken a message within {STORE_TIMEOUT:g} s") from None
        except OSError as error:
            raise DescriptorStoreError(f"systemd cannot be notified: {error.strerror or error}") from None
