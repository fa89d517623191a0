"""Checks whether `owner:` of a Unix socket exists, and whether this process may give the socket to it."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import Final

MAX_ID: Final = 2**32 - 2
"""Largest number of a user or group; the next one is -1, which chown(2) takes for "no change"."""
CAP_CHOWN: Final = 1 << 0
"""Bit of the capability in /proc/self/status (capabilities(7))."""


def find_owner(owner: str) -> tuple[int, int | None]:
    """Return the numbers of `user` or `user:group`; the group is None if it is omitted.

    Raises:
        ValueError: One of them does not exist.
    """
    user, colon, group = owner.partition(":")
    for number in (user, group):
        if number.isdigit() and int(number[:11]) > MAX_ID:
            raise ValueError(f"{number} is no number of a user or group: the largest is {MAX_ID}")
    try:
        uid = int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ValueError(f'there is no user "{user}" on this host') from None
    if not colon:
        return uid, None
    try:
        return uid, int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ValueError(f'there is no group "{group}" on this host') from None


def may_give_to(uid: int, gid: int | None) -> bool:
    """Return whether this process may give a file of its own to a user and a group (chown(2))."""
    if _effective_capabilities() & CAP_CHOWN:
        return True
    return uid == os.geteuid() and (gid is None or gid in {os.getegid(), *os.getgroups()})


def _effective_capabilities() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
