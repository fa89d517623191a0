"""Where connections come from: one file a kind of address, each with `listen(name, config) -> Listening`.

Reading order: `listening` (the open sockets and how they are given back), `tcp`, `unix`.
"""

from wsbridge.listeners.listening import ListenError, Listening

__all__ = ["ListenError", "Listening"]
