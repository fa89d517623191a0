"""systemd: what the daemon tells the service manager (sd_notify(3)).

Lives here: the one datagram protocol. Must not live here: when to tell what; that is the daemon's. Without
NOTIFY_SOCKET in the environment nothing happens, and a manager that does not listen changes nothing either.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Tells the service manager how the daemon is. Its methods never block and never raise.

    Args:
        environ: Where NOTIFY_SOCKET is looked up, once.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path if path.startswith("/") else ""

    def __bool__(self) -> bool:
        """Whether there is a manager to tell."""
        return bool(self._address)

    def ready(self, status: str = "") -> bool:
        """All listeners are open: `systemctl start` returns and what waits for this unit starts."""
        return self.notify(READY="1", STATUS=status)

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self.notify(STATUS=text)

    def stopping(self, status: str = "") -> bool:
        """The drain or the stop began."""
        return self.notify(STOPPING="1", STATUS=status)

    def notify(self, **state: str) -> bool:
        """Send assignments such as `READY="1"` in one datagram; empty ones are left out.

        Returns:
            Whether the datagram was handed over.
        """
        lines = [f"{key}={' '.join(value.split())}" for key, value in state.items() if value]
        if not self._address or not lines:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except (OSError, ValueError):  # the path may hold a NUL
            return False
        return True
