"""wsbridge relays bytes between WebSocket connections and TCP or Unix sockets, in both directions.

Reading order, along the path of one connection:

1. `daemon`, `server`: the process, its listeners; `accept`: the accept loop; `taskless`: connections that run
   by plain calls; `reload`: another configuration; `admin`: what operators see and do; `watchdog`: whether all
   listeners accept; `pressure`: memory that runs short, lag of the event loop; `revocation`: users and tokens that are
   removed.
2. `connection`: THE SPINE, one connection from first byte to last, one call per step; each adds what it learns to
   `context`. `services` is what all connections share.
3. `real_ip`: the client's address behind a proxy; `net.tls`: TLS; `frontend`: what the listener speaks;
   `protocol.http1`, `protocol.handshake`: how a request is read and checked.
4. `admission`: route, Origin, authentication (`auth`), limits (`limits`); `generation`: the routes, built from the
   configuration (`config`), with the classes that `registry` has for its sections.
5. `backends`: the backend is chosen and dialed, by `net.dialer`; `watched_dial` watches the client during a dial;
   `responders`: routes that wsbridge answers itself.
6. `relay`: `engine`, `loop`, `relay`, `endpoint` move the bytes; `protocol.websocket` is how they are framed. `native`
   does the same in Rust where it is installed; `engine_choice` says which.
7. `reasons`: why it ended; `access_log`: its log line, its audit record, and how they are counted (`counters`);
   `debug_log`: what was decided before.

Words: a generation is one configuration as objects; an exchange is one request and how to respond to it; front and
back are the sides of a relay, the client's and the backend's; a chain lists the routes that a connection came through;
a slot is what a connection holds of a limit.

Apart from that path: `cli` is the commands, `demo`, `probe` and `top` three of them; `explanations` is what reasons and
codes mean; `log` is the log; `sessions` keeps the resumable sessions of clients that are away; `client` is what other
programs import: a stream over such a session; `worker_thread`, `reloading_file`, `file_watcher` and `ttl_cache` are
what their names say.

A file imports only from its own line of this table or lines above it; `protocol` does no I/O at all.

    `reasons`
    `protocol` `config`
    `log` `taskless` `worker_thread` `net` `limits` `counters` `reloading_file` `file_watcher` `ttl_cache`
    `explanations`
    `relay` `native`
    `context` `auth` `responders` `backends` `frontend` `real_ip`
    `registry` `engine_choice` `services` `generation` `admission` `access_log` `debug_log` `client` `sessions`
    `watched_dial`
    `connection` `accept` `server` `pressure` `reload` `watchdog` `admin` `revocation` `daemon` `demo` `probe` `top`
    `cli`
"""

__version__ = "0.1.0"
