"""Why connections end: meaning, causes and remedies of every reason, for `wsbridge explain` and docs/reasons.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Case:
    """One cause, and what to change.

    Attributes:
        cause: One sentence.
        remedy: One or two sentences, with the settings and programs.
    """

    cause: str
    remedy: str


@dataclass(frozen=True, slots=True)
class ReasonExplanation:
    """What one reason means.

    Attributes:
        meaning: Sentences.
        caused_by: Who or what causes it.
        cases: The usual causes, the most frequent first.
        pages: Where there is more about it, below docs/.
        endings: What the table of docs/reasons.md has of status, close code and TCP side.
    """

    meaning: str
    caused_by: str
    cases: tuple[Case, ...]
    pages: tuple[str, ...]
    endings: tuple[str, str, str]


REASON_EXPLANATIONS: Final[dict[str, ReasonExplanation]] = {
    "backend_closed": ReasonExplanation(
        "The backend closed the connection cleanly: FIN, or from a WebSocket backend Close 1000 or a Close "
        "without a code. A WebSocket client gets any Close of a WebSocket backend as it came, with its code and "
        "text.",
        "the backend, cleanly",
        (
            Case(
                "The service finished, or a user logged out.",
                "Nothing, if the service was to end the connection; its own log says why it did.",
            ),
            Case(
                "The service closes each connection at once.",
                "It may expect another protocol, TLS, or a PROXY header: compare `backend` with the service, and "
                "see `proxy_protocol`.",
            ),
        ),
        (),
        ("", "1000, after all data", "FIN"),
    ),
    "client_closed": ReasonExplanation(
        "The client closed the connection: FIN, or a Close frame. Close 1000, 1001, 3000 to 4999 or without a "
        "code is a clean end; the other codes report a fault, and a raw backend is reset (FIN with "
        "`on_client_lost: fin`).",
        "the client, cleanly or with a close code that reports a fault",
        (
            Case(
                "The user closed the page or the program.",
                "Nothing.",
            ),
            Case(
                "`detail` says `while the backend was dialed`: the client did not wait for it.",
                "Find out why the dial takes so long: `backend.dialed` at `--log-level debug`.",
            ),
            Case(
                "`close_code` is 1002, 1003 or from 1007 on.",
                "The client rejected what the backend sent: `detail` has the text of its Close frame.",
            ),
        ),
        (),
        ("", "the client's own code", "FIN; reset for a Close with 1002, 1003 or 1007 to 1014"),
    ),
    "client_lost": ReasonExplanation(
        "The client disconnected without a Close frame, sent no pong within `ping_timeout`, or left while the "
        "backend was being dialled. With `on_client_lost: fin` the backend gets a FIN instead.",
        "the client, its network, or a proxy in front of wsbridge",
        (
            Case(
                "A proxy in front cuts idle connections, often after exactly 60 seconds.",
                "Raise its timeout (nginx `proxy_read_timeout`, HAProxy `timeout tunnel`), or lower "
                "`timeouts.ping_interval` below it.",
            ),
            Case(
                "The client sent no pong within `timeouts.ping_timeout`: it left its network, or its computer sleeps.",
                "Nothing; clients that are slow rather than gone need a longer `timeouts.ping_timeout`.",
            ),
            Case(
                "The client gave up while the backend was dialed.",
                "Find out why the dial takes so long: `backend.dialed` at `--log-level debug`.",
            ),
        ),
        ("troubleshooting.md#the-connection-breaks-off",),
        ("", "", "reset"),
    ),
    "backend_refused": ReasonExplanation(
        "Nothing listens on the backend's address, or what listens there gives no valid response. `dial: "
        "{retry_for: 30s}` waits for a backend that is still starting.",
        "the backend, or the network before it",
        (
            Case(
                "The service does not run, or listens on another address or port.",
                "Start it; compare `ss -ltnp` on its host with `backend` of the route.",
            ),
            Case(
                "The service listens on 127.0.0.1 only, and wsbridge runs on another host or in another container.",
                "Let the service listen on an address that wsbridge reaches.",
            ),
            Case(
                "The service is still starting.",
                "Set `dial: {retry_for: 30s}` on the route.",
            ),
            Case(
                "A `ws://` or `wss://` backend gives no valid response to the upgrade.",
                "The service is no WebSocket server: use `tcp://` or `tls://`; or it requires TLS: use `wss://`.",
            ),
        ),
        ("troubleshooting.md#the-client-gets-an-http-status",),
        ("502", "1014", "reset"),
    ),
    "backend_rejected": ReasonExplanation(
        "A WebSocket backend or a proxy in front of it responded with another status than 101; the log has its "
        "status, Location and the beginning of its body. Retry-After is passed on. If `headers:` of the backend "
        "hold credentials, its 401 and 403 become 502: they are not about the client.",
        "the backend, or a proxy between wsbridge and it",
        (
            Case(
                "404 or 200: the path is not the one of its WebSocket.",
                "Write the path in the URL of `backend`, or set `pass_path`.",
            ),
            Case(
                "401 or 403: it requires credentials, or an Origin that it knows.",
                "Set `headers` of the backend; or `pass_origin`, `pass_headers` or `pass_credentials`.",
            ),
            Case(
                "301 or 302: it redirects to another address.",
                "Write the address of Location in the URL; redirects are not followed.",
            ),
            Case(
                "407 or another status of an HTTP proxy.",
                "Set `proxy` and `proxy_headers` of the backend.",
            ),
        ),
        ("troubleshooting.md#the-client-gets-an-http-status",),
        ("401, 403, 404, 410, 429, 503 or 508 as the backend says, else 502", "1014", "reset"),
    ),
    "backend_unreachable": ReasonExplanation(
        "No route to the backend, or its Unix socket does not exist.",
        "the network, or the configuration of the host",
        (
            Case(
                "There is no route to the address, or a router rejects it.",
                "Try `ip route get ADDRESS` and `ping ADDRESS` on this host.",
            ),
            Case(
                "The Unix socket does not exist: the service has not started, or the path is another.",
                "Start the service; compare the path in `backend` with its configuration.",
            ),
        ),
        ("troubleshooting.md#the-client-gets-an-http-status",),
        ("502", "1014", "reset"),
    ),
    "backend_denied": ReasonExplanation(
        "wsbridge may not connect to the backend: the log has owner and mode of a Unix socket, and the user that "
        "wsbridge runs as.",
        "permissions on this host",
        (
            Case(
                "The mode, owner or group of the Unix socket excludes the user that wsbridge runs as.",
                "Add that user to the group of the socket (`SupplementaryGroups=` in systemd), or change the "
                "mode of the socket.",
            ),
            Case(
                "A directory above the socket is closed to it.",
                "Allow the user to search (`x`) each directory of the path.",
            ),
            Case(
                "A firewall rule of this host, or `IPAddressDeny=` of the unit, forbids the address.",
                "Allow it there.",
            ),
        ),
        ("troubleshooting.md#the-client-gets-an-http-status",),
        ("502", "1014", "reset"),
    ),
    "backend_dns": ReasonExplanation(
        "The backend's host name cannot be resolved.",
        "the configuration, or the DNS servers of this host",
        (
            Case(
                "The name is misspelt or does not exist.",
                "Try `getent hosts NAME` on this host; correct `backend`.",
            ),
            Case(
                '"Temporary failure in name resolution": no DNS server responds.',
                "Check /etc/resolv.conf, and whether the unit or a firewall allows port 53.",
            ),
        ),
        ("troubleshooting.md#the-client-gets-an-http-status",),
        ("502", "1014", "reset"),
    ),
    "backend_tls": ReasonExplanation(
        "The TLS handshake with the backend failed; the log has OpenSSL's message.",
        "the backend's TLS, or the configuration",
        (
            Case(
                '"does not speak TLS" (wrong version number, unexpected message).',
                "Write `tcp://` for `tls://`, or `ws://` for `wss://`.",
            ),
            Case(
                '"unable to get local issuer certificate", "self-signed certificate".',
                "Set `ca` of the backend to a file with the certificate of its authority; the server must send "
                "its whole chain.",
            ),
            Case(
                '"Hostname mismatch", "IP address mismatch".',
                "Dial a name that the certificate has, or set `server_name`.",
            ),
            Case(
                '"certificate has expired".',
                "Renew the certificate of the backend; check the clock of this host.",
            ),
            Case(
                '"certificate required", "handshake failure".',
                "It requires a client certificate: set `client_certificate` of the backend.",
            ),
            Case(
                "The fingerprint is none of `pin_sha256`.",
                "If the certificate was renewed, replace the fingerprint; otherwise suspect an attack.",
            ),
        ),
        ("troubleshooting.md#the-client-gets-an-http-status",),
        ("502", "1014", "reset"),
    ),
    "backend_timeout": ReasonExplanation(
        "The backend did not respond within `timeouts.connect`; the log names the step (name lookup, connection "
        "attempt, TLS handshake, response), the address and the time.",
        "the backend, a firewall, or a DNS server",
        (
            Case(
                "No answer to the connection attempt: a firewall drops the packets, or the host is down.",
                "Allow the port there; `detail` has the address and how long it was tried.",
            ),
            Case(
                "The name lookup takes too long.",
                "Check /etc/resolv.conf; write an IP address in `backend`.",
            ),
            Case(
                "The service accepts the connection and is slow in the TLS or WebSocket handshake.",
                "Check its load; raise `timeouts.connect`.",
            ),
        ),
        ("troubleshooting.md#the-client-gets-an-http-status",),
        ("504", "1014", "reset"),
    ),
    "backend_reset": ReasonExplanation(
        "The backend broke the connection off: RST, from a WebSocket backend an end without a Close frame, or "
        "for a plain client a Close with any other code than 1000. The data received may be truncated.",
        "the backend",
        (
            Case(
                "The service crashed or was restarted.",
                "See its log at the same time.",
            ),
            Case(
                "A firewall or load balancer between wsbridge and the backend drops idle connections.",
                "Raise its timeout. With `ws://` backends, lower `timeouts.ping_interval`.",
            ),
            Case(
                "The service does not speak the protocol that the client speaks.",
                "Compare `backend` with what the client expects.",
            ),
            Case(
                "With TLS 1.3: the service did not accept the client certificate.",
                "See `client_certificate` of the backend.",
            ),
        ),
        ("troubleshooting.md#the-connection-breaks-off",),
        ("", "1011, after its data", "reset"),
    ),
    "idle_timeout": ReasonExplanation(
        "No payload within `timeouts.idle`; pings do not count.",
        "wsbridge, by configuration",
        (
            Case(
                "Neither side sent payload within `timeouts.idle`.",
                "Raise `timeouts.idle`, or let the application send something; pings do not count.",
            ),
        ),
        ("troubleshooting.md#the-connection-breaks-off",),
        ("", "1001 (1012 to a backend)", "reset"),
    ),
    "max_lifetime": ReasonExplanation(
        "The connection reached `timeouts.max_lifetime`.",
        "wsbridge, by configuration",
        (
            Case(
                "The connection is as old as `timeouts.max_lifetime`.",
                "Raise it, or let clients reconnect.",
            ),
        ),
        ("troubleshooting.md#the-connection-breaks-off",),
        ("", "1001 (1012 to a backend)", "reset"),
    ),
    "write_stalled": ReasonExplanation(
        "A peer accepted no pending data within `timeouts.write`.",
        "the side that does not read; `initiator` says which",
        (
            Case(
                "The client is suspended or its network is gone, and data for it waits.",
                "Nothing; a slow network may need a longer `timeouts.write`.",
            ),
            Case(
                "The backend hangs.",
                "See its log and its load.",
            ),
        ),
        ("troubleshooting.md#the-connection-breaks-off",),
        ("", "dropped", "reset"),
    ),
    "protocol_error": ReasonExplanation(
        "A peer violated RFC 6455; the log says how.",
        "the side in `initiator`, or a proxy that changes its bytes",
        (
            Case(
                "A client library that violates RFC 6455, or no WebSocket client at all.",
                "Update it; `detail` says what was wrong.",
            ),
            Case(
                "A proxy in front changes or compresses frames.",
                "Let it pass the connection on unchanged after the 101.",
            ),
        ),
        (),
        ("400", "1002", "reset"),
    ),
    "invalid_utf8": ReasonExplanation(
        "A text message or a close reason was not valid UTF-8.",
        "the side in `initiator`",
        (
            Case(
                "A client sends binary data as text messages.",
                "Let it send binary messages (`ws.send(new Uint8Array(…))`), or set `text_messages: bytes`.",
            ),
        ),
        ("troubleshooting.md#the-connection-breaks-off",),
        ("", "1007", "reset"),
    ),
    "unsupported_data": ReasonExplanation(
        "A text message, and the route has `text_messages: reject`.",
        "the side in `initiator`",
        (
            Case(
                "It sends text messages, and the route has `text_messages: reject`.",
                "Let it send binary messages, or set `text_messages: accept`.",
            ),
        ),
        ("troubleshooting.md#the-connection-breaks-off",),
        ("", "1003", "reset"),
    ),
    "control_flood": ReasonExplanation(
        "More control or empty frames than `limits.control_frame_rate` per second, over five seconds; or more "
        "than 32 TLS records in a row without payload (key updates, renegotiation).",
        "the side in `initiator`",
        (
            Case(
                "An attack, or a client that pings much too often.",
                "Correct the client; if it is meant to, raise `limits.control_frame_rate`.",
            ),
        ),
        ("troubleshooting.md#the-connection-breaks-off",),
        ("", "1008", "reset"),
    ),
    "bad_request": ReasonExplanation(
        "Not a WebSocket upgrade request, or invalid HTTP; the response says why. If a reverse proxy drops the "
        "Upgrade header, it says so; for nginx write `proxy_http_version 1.1; proxy_set_header Upgrade "
        '$http_upgrade; proxy_set_header Connection "upgrade";`. On a listener with `protocol: tcp`: an HTTP '
        "request, see `allow_http`.",
        "the client, or most often a proxy in front of wsbridge",
        (
            Case(
                '426, "a proxy dropped Upgrade": the proxy does not pass WebSocket on.',
                "nginx: `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header "
                'Connection "upgrade";`.',
            ),
            Case(
                '426, "accepts WebSocket connections only": a browser or a health check requests the page itself.',
                "Add a route with `files`, or `respond: 200` for health checks.",
            ),
            Case(
                "400, no subprotocol in common.",
                "Add the client's to `subprotocols` of the route; `any` passes them on.",
            ),
            Case(
                '"a TLS hello on a listener without TLS".',
                "The client uses `https://` or `wss://`: add `tls` to the listener, or terminate TLS in front.",
            ),
        ),
        ("troubleshooting.md#the-client-gets-an-http-status",),
        ("400, 405 or 426", "", "reset"),
    ),
    "request_too_large": ReasonExplanation(
        "The request head exceeds a limit (`max_head_bytes`, `max_head_line_bytes`, `max_headers`); the response "
        "and the log name the header, often Cookie.",
        "the client",
        (
            Case(
                "Many or long cookies of the domain.",
                "Delete them, serve from a name of its own, or raise `limits.max_head_line_bytes` or "
                "`limits.max_head_bytes`.",
            ),
        ),
        ("configuration.md#limits",),
        ("431", "", "reset"),
    ),
    "handshake_timeout": ReasonExplanation(
        "No complete request head within `timeouts.handshake`, or the client did not read the 101 within it.",
        "the client, its network, or an attack with slow requests",
        (
            Case(
                "A browser opened the connection in advance and did not use it.",
                "Nothing.",
            ),
            Case(
                "A slow network.",
                "Raise `timeouts.handshake`.",
            ),
        ),
        ("configuration.md#timeouts",),
        ("408", "", "reset"),
    ),
    "tls_failed": ReasonExplanation(
        "The TLS handshake with a client failed.",
        "the client, or the certificate of the listener",
        (
            Case(
                '"the client does not trust the certificate": unknown authority, or an incomplete chain.',
                "Install the authority at the client; let `cert` hold the whole chain.",
            ),
            Case(
                '"the client speaks HTTP without TLS".',
                "Use `https://` or `wss://`.",
            ),
            Case(
                '"the client showed no certificate".',
                "Give the client one, or set `client_certificate: optional`.",
            ),
            Case(
                '"no TLS version or cipher in common": an old client.',
                "Update it; see `min_version` and `ciphers`.",
            ),
        ),
        ("troubleshooting.md#tls",),
        ("", "", "reset"),
    ),
    "bad_proxy_header": ReasonExplanation(
        "On a listener with `client_address_from: proxy-protocol` the PROXY header was missing, malformed or "
        "late, or did not come from `trusted_proxies`.",
        "the proxy in front, or a client that bypasses it",
        (
            Case(
                "The proxy sends no PROXY header.",
                "HAProxy: `send-proxy-v2`; nginx stream: `proxy_protocol on`. Or change `client_address_from`.",
            ),
            Case(
                "The address of the proxy is not in `trusted_proxies`.",
                "Add it.",
            ),
        ),
        ("addresses.md",),
        ("", "", "reset"),
    ),
    "origin_not_allowed": ReasonExplanation(
        "The page's Origin is not in `allowed_origins`; the log says what to add.",
        "a page of another site, or a proxy that changes Host",
        (
            Case(
                "The page is meant to connect.",
                "Add its origin to `allowed_origins` of the route; `detail` has the line.",
            ),
            Case(
                "A reverse proxy changes the Host header, so that the Origin does not match.",
                "nginx: `proxy_set_header Host $http_host;`, which has the port.",
            ),
            Case(
                "The page is not meant to connect.",
                "Nothing: that is the protection against cross-site WebSocket hijacking.",
            ),
        ),
        ("configuration.md#match",),
        ("403", "1008", "reset"),
    ),
    "host_not_allowed": ReasonExplanation(
        "The Host header of a request without TLS names a host that nobody allowed (DNS rebinding): add it to "
        "`host_names` of the listener or to `match.host` of the route.",
        "the client's URL",
        (
            Case(
                "The name is right, and the listener does not know it.",
                "Add it to `host_names` of the listener or `match.host` of the route; `bridge` and `demo`: "
                "`--host-name`.",
            ),
            Case(
                "A port forward or tunnel has a name of its own.",
                "Add that name in the same way.",
            ),
        ),
        ("configuration.md#listeners",),
        ("403", "1008", "reset"),
    ),
    "forbidden": ReasonExplanation(
        "Access is not permitted; the log says why.",
        "the client's credentials or address, or the target that it chose",
        (
            Case(
                "The address is in no network of `allow`, or in one of `deny`.",
                "Correct `auth: {kind: network}`; behind a proxy, set `trusted_proxies`.",
            ),
            Case(
                "The target is not in `allowed_targets`, or its token is unknown.",
                "Add it there, or to the token file.",
            ),
            Case(
                "The credentials are valid for another route.",
                "See `detail`; give the client those of this route.",
            ),
        ),
        ("authentication.md",),
        ("403", "1008", "reset"),
    ),
    "unauthenticated": ReasonExplanation(
        "The route requires authentication, and the client presented no valid credentials. The response is the "
        "same in all cases; the log has the cause.",
        "the client's credentials",
        (
            Case(
                "None were sent, or in a place where the route does not look.",
                "`detail` says which; see `sources` of the authentication method. Proxies may drop Authorization.",
            ),
            Case(
                "They are wrong, unknown or expired.",
                "`detail` says which; issue new ones: `wsbridge new-token`, `wsbridge hash-password`, `wsbridge "
                "ticket`.",
            ),
            Case(
                "The client sends Basic where the route requires Bearer, or the other way round.",
                "Change the client, or `kind` of `auth`.",
            ),
        ),
        ("authentication.md",),
        ("401", "", "reset"),
    ),
    "auth_unavailable": ReasonExplanation(
        "The authentication service did not respond; access is denied until it does.",
        "the authentication service",
        (
            Case(
                "It is down, slow, or responds with an unexpected status.",
                "See `detail` and its log; `timeout` of the authentication method.",
            ),
            Case(
                "The keys of the issuer could never be fetched.",
                "See `jwks.refresh_failed` in the log.",
            ),
        ),
        ("authentication.md",),
        ("503", "", "reset"),
    ),
    "auth_expired": ReasonExplanation(
        "The client's credentials have expired.",
        "the client's credentials",
        (
            Case(
                "The token, ticket or session has reached its end.",
                "Let the client reconnect with new ones; issue them for longer.",
            ),
        ),
        ("authentication.md",),
        ("", "1008", "reset"),
    ),
    "no_route": ReasonExplanation(
        "No route matches.",
        "the client's URL, or the configuration",
        (
            Case(
                "The path differs: a slash at the end, capitals, a missing `/*`.",
                "`skipped` of `request.routed` at `--log-level debug` names the nearest routes; correct "
                "`match.path` or the URL.",
            ),
            Case(
                "The Host header is another one than in `match.host`.",
                "A proxy in front must pass it on; or add the name.",
            ),
            Case(
                "The route is not for this listener.",
                "See `match.listener`.",
            ),
        ),
        ("configuration.md#match",),
        ("404", "", "reset"),
    ),
    "rate_limited": ReasonExplanation(
        "Rate limiting: the client has too many connections, or opens them too fast. The log names the "
        "[limit](limits.md), and what to configure if the address is that of a proxy.",
        "the client, or many clients behind one address",
        (
            Case(
                "All clients come through a proxy that is not trusted, so they count as one.",
                "Set `trusted_proxies` and `client_address_from` of the listener.",
            ),
            Case(
                "A company or a mobile provider has one address for many users.",
                "Raise `limits.per_address`, or add the network to `exempt`.",
            ),
            Case(
                "A client that reconnects without a pause.",
                "Let it wait longer after each failure.",
            ),
            Case(
                "A limit of the route: `connections`, `connections_per_identity`, `connections_per_token`.",
                "Raise it; `detail` names it.",
            ),
        ),
        ("limits.md",),
        ("429 with Retry-After", "", "reset"),
    ),
    "banned": ReasonExplanation(
        "Too many failed logins from this address; it is banned for some time.",
        "the client, by failed logins",
        (
            Case(
                "A program with an old password or token tries again and again.",
                "Correct it; the ban ends after `limits.per_address.ban_time`, or by `wsbridge unban ADDRESS`.",
            ),
            Case(
                "Many users behind one address, one of which uses a wrong password.",
                "List its networks in `limits.per_address.exempt`; `wsbridge bans` lists who is banned now.",
            ),
            Case(
                "An attack.",
                "Nothing; fail2ban can block the address for longer.",
            ),
        ),
        ("limits.md",),
        ("none (429 behind a proxy that reports addresses in headers)", "", "reset"),
    ),
    "overload": ReasonExplanation(
        "Over `limits.connections`, `connections` of the listener or `limits.password_queue`, or out of memory "
        "(`limits.max_memory`), file descriptors or threads.",
        "wsbridge, at a limit",
        (
            Case(
                "`limits.connections`, or `connections` of the listener.",
                "Raise it; `detail` has the numbers.",
            ),
            Case(
                "No file descriptors are left.",
                "Raise `LimitNOFILE=` of the unit.",
            ),
            Case(
                "No thread can be started (`can't start new thread`).",
                "Raise `TasksMax=` of the unit.",
            ),
            Case(
                "Memory is short.",
                "Raise `MemoryMax=` of the unit, or `limits.max_memory`.",
            ),
            Case(
                "Too many passwords wait to be verified.",
                "Raise `limits.password_queue`; use tokens, which are faster.",
            ),
        ),
        ("limits.md",),
        ("503 with Retry-After", "1013", "reset"),
    ),
    "route_removed": ReasonExplanation(
        "A reload removed or changed the route, and its `on_remove` is `drain` or `close`.",
        "the operator, by a reload",
        (
            Case(
                "The route was removed or changed, and has `on_remove: drain` or `close`.",
                "Nothing: clients reconnect. `on_remove: keep` lets connections end by themselves.",
            ),
        ),
        ("reload.md",),
        ("", "1012", "reset"),
    ),
    "closed_by_operator": ReasonExplanation(
        "An operator ended the connection through the [admin API](admin.md#connections); the log says who.",
        "the operator",
        (
            Case(
                "Somebody closed it with `wsbridge close`, `wsbridge top` or the admin API (`DELETE /v1/connections`).",
                "Nothing; `admin.request` in the log and the audit log has who did it.",
            ),
        ),
        ("admin.md",),
        ("503", "1001 (1012 to a backend)", "reset"),
    ),
    "access_revoked": ReasonExplanation(
        "The user or token that authenticated the client was removed from its list, and the method has "
        "[`on_revoke: close`](auth/basic.md#revocation).",
        "the operator",
        (
            Case(
                "The user or token is not meant to have access any more.",
                "Nothing.",
            ),
            Case(
                "The line was removed or changed by mistake.",
                "Restore it; with `on_revoke: keep` a change of the list closes no open connection.",
            ),
        ),
        ("authentication.md",),
        ("403", "1008", "reset"),
    ),
    "draining": ReasonExplanation(
        "Graceful shutdown after SIGTERM.",
        "the operator: SIGTERM, an upgrade, `wsbridge drain`",
        (
            Case(
                "wsbridge is being stopped, restarted or replaced.",
                "Nothing: clients reconnect. `timeouts.drain` is how long connections may go on.",
            ),
        ),
        ("commands.md#run",),
        ("503", "1012", "reset"),
    ),
    "shutdown": ReasonExplanation(
        "Immediate shutdown.",
        "the operator: SIGINT, or a second signal",
        (
            Case(
                "wsbridge was stopped immediately.",
                "Stop it by SIGTERM to let connections end.",
            ),
        ),
        ("commands.md#run",),
        ("503", "1001 (1012 to a backend)", "reset"),
    ),
    "loop_detected": ReasonExplanation(
        "The connection came through this route before: its backend, perhaps by way of other routes or of a "
        "proxy, leads back to wsbridge itself. Write the address of the service behind it. Also more than 16 "
        "wsbridges in a row.",
        "the configuration",
        (
            Case(
                "The backend is wsbridge itself, perhaps by way of a proxy.",
                "Write the address of the service behind it in `backend`.",
            ),
        ),
        ("troubleshooting.md#the-client-gets-an-http-status",),
        ("508", "1011", "reset"),
    ),
    "internal_error": ReasonExplanation(
        "A bug in wsbridge. Only this connection is affected; the log has an event `internal_error`.",
        "a bug in wsbridge",
        (
            Case(
                "The record `internal_error` with the same `id` has the traceback.",
                "Report it, with `wsbridge --version`.",
            ),
        ),
        ("troubleshooting.md#the-client-gets-an-http-status",),
        ("500", "1011", "reset"),
    ),
    "resume_rejected": ReasonExplanation(
        "A client may not have the resumable session that it asks for: there is none with this id and token for this "
        "identity and route. The client learns no more than that; the log says whether the session had ended. Wrong "
        "tokens count as failed logins.",
        "the client",
        (
            Case(
                "The session has ended, often since the client was away for longer than `ttl`.",
                "Raise `ttl` of `resume`, if clients should have more time; the client opens a new session.",
            ),
            Case(
                "A load balancer sent the client to another machine.",
                "Set `node` of `resume`, and let the load balancer route by it.",
            ),
            Case(
                "The client logged in as another user, or asked for another path.",
                "Nothing: a session belongs to its identity and its route.",
            ),
            Case(
                "The initiator is the backend, and `detail` has its answer: a WebSocket server does not let the "
                "session of a TCP client go on.",
                "Look into the log of that server, if it is a wsbridge: it has the same `session`.",
            ),
        ),
        ("resume.md",),
        ("", "session: 4001", "reset"),
    ),
    "resume_gap": ReasonExplanation(
        "The client and wsbridge do not agree on which bytes have arrived, so that the session cannot go on without a "
        "gap; it ended.",
        "the client",
        (
            Case(
                "The client has a fault, or two clients share the state of a session.",
                "Report it to the author of the client: the positions are in `detail`.",
            ),
        ),
        ("resume-protocol.md",),
        ("", "session: 4002", "reset"),
    ),
    "superseded": ReasonExplanation(
        "The client continued its session over another connection while this one still looked alive; or a request to "
        "continue it came later than a newer one.",
        "the client",
        (
            Case(
                "The client changed its network, and came back before wsbridge noticed that this connection was dead.",
                "Nothing.",
            ),
            Case(
                "Two programs use the state of one session.",
                "Let each open its own session.",
            ),
            Case(
                "The initiator is the backend: another program goes on with the session of a TCP client.",
                "Nothing does that but somebody with its token: look into the log of the WebSocket server.",
            ),
        ),
        ("resume.md",),
        ("", "session: 4003", "reset"),
    ),
    "session_lost": ReasonExplanation(
        "The session was one of an earlier process, and could not go on in the next one.",
        "a restart of wsbridge",
        (
            Case(
                "wsbridge was restarted without a store for its sessions, or it crashed.",
                "Nothing; the client opens a new session. Under systemd, set `FileDescriptorStoreMax=`; elsewhere, "
                "upgrade with `wsbridge run --takeover`. A reload keeps all sessions.",
            ),
            Case(
                "The backend speaks TLS or WebSocket: the state of such a connection is in the process that has it.",
                "Let wsbridge connect to it by `tcp:` or `unix:`, if it is on the same machine.",
            ),
            Case(
                "The initiator is the backend: the WebSocket server was restarted, and the TCP client was reset.",
                "Nothing; the client connects again.",
            ),
        ),
        ("resume.md#restarts",),
        ("", "session: 4004", "reset"),
    ),
    "session_expired": ReasonExplanation(
        "A session waited for its client for `ttl` of `resume`, and ended. With `on_client_lost: fin` the backend gets "
        "a FIN instead.",
        "the client, or its network",
        (
            Case(
                "The client is gone, or could not connect for so long.",
                "Raise `ttl` of `resume`, if clients should have more time.",
            ),
            Case(
                "The initiator is the backend: wsbridge could not connect to a WebSocket server for as long as that "
                "keeps a session. `detail` has the latest failure, and the TCP client was reset.",
                "Raise `ttl` of `resume` at the server, if clients should wait for longer.",
            ),
        ),
        ("resume.md",),
        ("", "", "reset"),
    ),
    "session_displaced": ReasonExplanation(
        "As many sessions wait for their clients as may, and this one waited the longest of its client and route. The "
        "client learns the reason when it comes back.",
        "a limit: `limits.detached_sessions_per_identity` or `limits.detached_sessions`",
        (
            Case(
                "A client opens sessions and leaves them without closing them, such as a page that is reloaded often.",
                "Let the client end its session (close code 1000); or raise the limit that `detail` names.",
            ),
        ),
        ("limits.md#resumable-sessions",),
        ("", "session: 4009", "reset"),
    ),
    "handed_over": ReasonExplanation(
        "The session goes on in the next process of wsbridge, after a restart or a takeover. Its client was asked to "
        "connect again (GOAWAY, 1012); the line of that process has the whole session.",
        "wsbridge",
        (Case("wsbridge was restarted, or another process took over.", "Nothing is to be done."),),
        ("resume.md#restarts",),
        ("", "session: 1012", "stays connected"),
    ),
}
