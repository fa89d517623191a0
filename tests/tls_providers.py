"""The implementations of TLS: OpenSSL's, and that of the native engine where the extension is installed."""

from __future__ import annotations

from typing import Any

import pytest

from wsbridge import native
from wsbridge.net.tls_roles import OpenSsl


def providers() -> list[Any]:
    """Return them, as parameters of a fixture."""
    found = [pytest.param(OpenSsl(), id="openssl")]
    if native.load() is None:
        return found
    from wsbridge.native.tls import Rustls

    return [*found, pytest.param(Rustls(), id="rustls")]
