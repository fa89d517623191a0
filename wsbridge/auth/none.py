"""No authentication: everybody may use the route.

Lives here: the section behind `auth: none`. Must not live here: other ways. There is no class, since nobody is asked.
"""

from __future__ import annotations

from typing import Literal

from wsbridge.config.section import AuthSection


class NoAuthConfig(AuthSection):
    """Nobody is asked who he is."""

    kind: Literal["none"] = "none"
    """none: everybody may use the route."""

    def names_clients(self) -> bool:
        """See `AuthSection.names_clients`: nobody is asked."""
        return False
