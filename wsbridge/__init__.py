"""wsbridge carries bytes between WebSocket connections and TCP sockets, both ways round.

The order of reading is the way of a connection:

1. `daemon`, `server`: the process and what outlives a connection; `accept`: one task for each.
2. `connection`: THE SPINE, one connection from first byte to last, one call per step.
3. `arrival`: before the first request; `whence`: who stands behind a proxy; `net.tls_wire`: TLS; `speaks`: what the
   connection asks for; `protocol.http1`, `protocol.handshake`: how it is read.
4. `admit`: which route, and may it; `access`, `auth`: who is it; `quota`, `limits`: has he too much; `generation`: what
   a route is, built from `config`.
5. `targets`: which one, where clients choose; `backends`: the other side is dialled, by `net.dial`.
6. `relay`: `engine`, `pump`, `pair`, `endpoint` move the bytes; `protocol.websocket` is how they are framed.
7. `reasons`: why it ended; `account`: its line in the log; `audit`: what it leaves there.

A file imports only from its own line or lines above it: `reasons`, `ledger` · `protocol`, `config` · `log`, `net`,
`limits`, `listeners`, `reread`, `systemd` · `audit`, `relay` · `auth`, `backends`, `targets`, `routes`, `speaks`,
`whence` · `kinds`, `generation`, `admit`, `access`, `account`, `arrival`, `quota` · `connection`, `accept`, `server`,
`daemon`, `demo` · `cli`. `protocol` does no I/O at all.
"""

__version__ = "0.1.0"
