"""The values of log lines, written by the extension: every connection ends with such a line."""

from __future__ import annotations

from wsbridge.log.format import MembersWriter, describe_key, write_member
from wsbridge.native import _native


def native_members_writer() -> MembersWriter:
    """Return what writes them as `log.format` does, and asks that for all that is not plain."""
    return _native.MemberWriter(describe_key, write_member).members
