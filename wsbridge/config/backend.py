"""The base of the sections of all backends.

Lives here: what every backend has in the file. Must not live here: any kind of backend (beside its class).
"""

from __future__ import annotations

from wsbridge.config.address import TargetUrl
from wsbridge.config.section import Section


class BackendSection(Section):
    """Where a route's bytes go."""

    url: TargetUrl
    """tcp://host:port, tls://host:port, unix:/path, ws://host[:port]/path or wss://host[:port]/path."""
