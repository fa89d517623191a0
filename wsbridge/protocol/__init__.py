"""The protocols, sans I/O: bytes in, values out; no sockets, tasks, clocks or logs in this directory.

In the order in which a connection meets them: `proxy`, `tls_records`, `http_guard`; `http1` reads a request, with the
path and host in the normal form of `uri`, unless `handshake.KnownRequests` has it; `forwarded`, `credentials` and
`ticket` read what it carries; `handshake` is the opening handshake of both roles; `websocket` has the frames. An
invalid head raises `Rejected`; an invalid frame is a value.
"""
