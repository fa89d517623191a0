"""Backends: each kind has its section of the configuration and its class.

Reading order: `base` (the interface), `tcp` (tcp, tls and unix), `websocket`, `client_headers`; then targets that
clients choose: `dynamic`, `target_template`, `token_file`, `target_policy`.
"""

from wsbridge.backends.base import Backend, Connected, DialRequest, DialServices

__all__ = ["Backend", "Connected", "DialRequest", "DialServices"]
