"""The audit: who was let in to what, when it ended, and who was refused, as a stream of its own.

`events` is the table of all records, `trail` the file that they go to. What a connection tells is put together where
its facts are (`account`). Must not live here: any fact about a connection.
"""

from __future__ import annotations

from wsbridge.audit.trail import Trail

__all__ = ["Trail"]
