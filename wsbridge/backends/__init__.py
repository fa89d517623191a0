"""Where connections go: one file a kind of backend, each with its section of the configuration and its class.

Reading order: `backend` (what every kind takes and gives), `client`, `introduction`, `client_headers`, `tcp`, `unix`,
`tls`, `websocket`.
"""

from wsbridge.backends.base import Backend, Connected, DialRequest, DialServices

__all__ = ["Backend", "Connected", "DialRequest", "DialServices"]
