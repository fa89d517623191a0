"""The protocols, sans I/O: bytes in, values out; no sockets, tasks, clocks or logs in this directory.

A peer's mistake is a returned value (`BadHead`, a violation), never an exception; an exception is a bug of ours.
In the order in which a connection meets them: `http1` reads a `head` within limits, `target` and `origin` judge what
it names, `handshake` is the opening of RFC 6455 for both roles; then the framings take over.
"""
