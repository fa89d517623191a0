"""The context of a listener, made of files once."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsbridge.net.tls import KeyPair, ServerTlsOptions, combine_certificates, load_server_certificate


def server_context(certificates: Sequence[KeyPair], client_ca: Path | None = None, **options: Any) -> ssl.SSLContext:
    """Make the context of a listener with these certificates and options."""
    found = ServerTlsOptions(client_ca, **options)
    return combine_certificates([load_server_certificate(pair, found) for pair in certificates])
