"""The base of the sections of all backends.

Lives here: what every backend has in the file. Must not live here: any kind of backend (beside its class).
"""

from __future__ import annotations

from abc import abstractmethod

from wsbridge.config.section import Section
from wsbridge.config.template import TargetUrl, Template


class AnyBackendSection(Section):
    """Where a route's bytes go, written in whatever form."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """Which class dials it: a name of the table of backends."""

    @property
    @abstractmethod
    def text(self) -> str:
        """As it is told; may have secrets of a URL's query in it."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that every client fills for himself; none where all reach the same."""
        return ()

    @property
    def tells_client(self) -> bool:
        """Whether the server is told who the client is."""
        return False


class BackendSection(AnyBackendSection):
    """Where a route's bytes go."""

    url: TargetUrl
    """tcp://host:port, tls://host:port, unix:/path, ws://host[:port]/path or wss://host[:port]/path."""

    @property
    def kind(self) -> str:
        """See `AnyBackendSection.kind`: the scheme."""
        return self.url.scheme

    @property
    def text(self) -> str:
        """See `AnyBackendSection.text`."""
        return self.url.text

    @property
    def fields(self) -> tuple[str, ...]:
        """See `AnyBackendSection.fields`: those of a template."""
        return self.url.fields if isinstance(self.url, Template) else ()
