"""What the reasons of wsbridge and WebSocket close codes mean for the client that gets them."""

from __future__ import annotations

from typing import Final

from wsbridge.probe.steps import Diagnosis, ProbeStep
from wsbridge.reasons import Reason

_LOG: Final = (
    "The log of wsbridge has the detail{0}: journalctl -u wsbridge | grep {1}; more causes: wsbridge explain {1}"
)
_FROM_THERE: Final = (
    "On the host of wsbridge, probe the backend itself: wsbridge probe URL, with the URL of the route's backend"
)

EXPLANATIONS: Final[dict[str, Diagnosis]] = {
    "backend_refused": Diagnosis(
        ProbeStep.BACKEND,
        "wsbridge cannot connect to the backend: nothing listens on its address, or what listens there gives no valid "
        "answer.",
        (
            _FROM_THERE,
            (
                "Start the service behind the route, or correct routes.NAME.backend in wsbridge.yaml (port; "
                "wss:// for ws://, "
                "tcp:// for a service without WebSocket)"
            ),
            "A backend that starts slowly: routes.NAME.dial: {retry_for: 30s}",
        ),
    ),
    "backend_rejected": Diagnosis(
        ProbeStep.BACKEND,
        "The WebSocket backend of the route, or a proxy in front of it, answered something else than 101.",
        (
            _FROM_THERE,
            (
                "Correct the path in routes.NAME.backend of wsbridge.yaml, or add what it requires: headers, origin, "
                "subprotocols of the backend"
            ),
            "A backend that does not speak WebSocket: write tcp:// for ws://",
        ),
    ),
    "backend_unreachable": Diagnosis(
        ProbeStep.BACKEND,
        "wsbridge has no route to the backend, or the Unix socket of the backend does not exist.",
        (
            _FROM_THERE,
            (
                "A unix: backend: start the service that makes the socket, or correct the path in "
                "routes.NAME.backend of "
                "wsbridge.yaml; PrivateTmp= of a systemd service hides sockets in /tmp"
            ),
            "A tcp: backend: ip route get ADDRESS on the host of wsbridge",
        ),
    ),
    "backend_denied": Diagnosis(
        ProbeStep.BACKEND,
        "wsbridge may not connect to the backend: the permissions of its Unix socket, or a firewall rule of the host, "
        "forbid it.",
        (
            (
                "ls -l PATH of the socket: let its group be one of the user that wsbridge runs as (systemd: "
                "SupplementaryGroups=GROUP in the unit wsbridge.service), with mode 0660"
            ),
            _FROM_THERE + ", as the same user (sudo -u USER)",
        ),
    ),
    "backend_dns": Diagnosis(
        ProbeStep.BACKEND,
        "The host name of the backend cannot be resolved by wsbridge.",
        (
            (
                "On the host of wsbridge: getent hosts NAME; correct the name in routes.NAME.backend of "
                "wsbridge.yaml, or its "
                "DNS: /etc/resolv.conf"
            ),
            _FROM_THERE,
        ),
    ),
    "backend_tls": Diagnosis(
        ProbeStep.BACKEND,
        "The TLS handshake of wsbridge with the backend failed: an unknown authority, a wrong name, an expired "
        "certificate, no TLS at all, or a client certificate is demanded.",
        (
            _FROM_THERE + ": it names the fault",
            (
                "routes.NAME.backend of wsbridge.yaml: ca: FILE for an own authority, server_name: NAME for "
                "another name, tcp:// "
                "for tls:// (ws:// for wss://) if it speaks no TLS, client_certificate: {cert: FILE} if it demands one"
            ),
        ),
    ),
    "backend_timeout": Diagnosis(
        ProbeStep.BACKEND,
        "The backend did not answer wsbridge in time: a firewall drops the packets (SYN unanswered), or the service "
        "hangs.",
        (
            _FROM_THERE,
            "Allow the port of the backend in its firewall, for the address of the host of wsbridge",
            "A slow backend: timeouts.connect in wsbridge.yaml",
        ),
    ),
    "backend_closed": Diagnosis(
        ProbeStep.BACKEND,
        "The backend accepted the connection and closed it at once.",
        (
            (
                "See the log of the service behind the route: it may limit connections, reject the address of wsbridge "
                "(hosts.allow, pg_hba.conf), or expect another protocol"
            ),
            (
                "If the service expects a PROXY header: routes.NAME.backend: {url: …, proxy_protocol: v2} in "
                "wsbridge.yaml; if "
                "it does not expect one, remove it"
            ),
            _FROM_THERE,
        ),
    ),
    "backend_reset": Diagnosis(
        ProbeStep.BACKEND,
        "The backend broke the connection: it crashed, was restarted, or does not accept what it got.",
        ("See the log of the service behind the route", _FROM_THERE),
    ),
    "loop_detected": Diagnosis(
        ProbeStep.BACKEND,
        "The backend of the route leads back to wsbridge itself.",
        (
            (
                "Write the address of the service itself in routes.NAME.backend of wsbridge.yaml (nginx: "
                "proxy_pass likewise)"
            ),
        ),
    ),
    "origin_not_allowed": Diagnosis(
        ProbeStep.ORIGIN,
        "The route does not accept the Origin of the request.",
        (
            "wsbridge.yaml: add it to routes.NAME.allowed_origins",
            (
                "Behind nginx: proxy_set_header Host $http_host; (without the port, the Origin is not the "
                "same); HAProxy passes "
                "Host on unchanged"
            ),
        ),
    ),
    "host_not_allowed": Diagnosis(
        ProbeStep.HTTP,
        "The host name in the URL is not configured, and the listener has no TLS (protection against DNS rebinding).",
        (
            (
                "wsbridge.yaml: add the name to listeners.NAME.host_names, or to routes.NAME.match.host; "
                "`bridge` and `demo`: "
                "--host-name NAME"
            ),
            "A proxy in front must pass the Host header on: nginx: proxy_set_header Host $http_host;",
        ),
    ),
    "forbidden": Diagnosis(
        ProbeStep.AUTHENTICATION,
        "The credentials are valid but not for this, the client's address is not allowed, or the target is not.",
        (
            "wsbridge.yaml: routes.NAME.auth (networks, claims, identities) and allowed_targets",
            (
                "Behind a proxy the address of all clients is that of the proxy: trusted_proxies and "
                "client_address_from of the "
                "listener"
            ),
        ),
    ),
    "unauthenticated": Diagnosis(
        ProbeStep.AUTHENTICATION,
        "The route requires credentials, and got none that are valid.",
        (
            (
                "Send them: --user NAME, --token-file FILE or --header 'Name: value', as routes.NAME.auth of "
                "wsbridge.yaml says"
            ),
            "The server does not say whether they were missing, wrong or expired; its log does",
        ),
    ),
    "auth_unavailable": Diagnosis(
        ProbeStep.AUTHENTICATION,
        "The authentication service of the route does not answer.",
        ("wsbridge.yaml: the url of routes.NAME.auth (forward, jwks): wsbridge must be able to reach it",),
    ),
    "auth_expired": Diagnosis(
        ProbeStep.AUTHENTICATION,
        "The credentials expired while the connection was open.",
        ("Connect again with new ones, or let them be valid for longer",),
    ),
    "banned": Diagnosis(
        ProbeStep.AUTHENTICATION,
        "This address is banned for some time after too many failed logins.",
        ("Wait, or see limits.per_address in wsbridge.yaml: ban_time, max_failures, exempt",),
    ),
    "no_route": Diagnosis(
        ProbeStep.HTTP,
        "No route of wsbridge matches listener, host and path.",
        (
            "Correct the path in the URL, or routes.NAME.match in wsbridge.yaml (path, host, listeners)",
            (
                "A proxy in front may change the path: nginx: a proxy_pass with a path replaces that of "
                "location; HAProxy: "
                "http-request set-path, replace-path"
            ),
        ),
    ),
    "rate_limited": Diagnosis(
        ProbeStep.HTTP,
        "Too many connections from this address, or too fast.",
        (
            "wsbridge.yaml: limits.per_address: connections, handshake_rate, handshake_burst, exempt",
            "If all clients come through one proxy: trusted_proxies and client_address_from of the listener",
        ),
    ),
    "overload": Diagnosis(
        ProbeStep.HTTP,
        "wsbridge has reached a limit: connections, open files or memory.",
        (
            "wsbridge.yaml: limits.connections, connections of the listener, limits.max_memory",
            "systemd: LimitNOFILE= and MemoryMax= of wsbridge.service",
        ),
    ),
    "draining": Diagnosis(
        ProbeStep.HTTP,
        "wsbridge is shutting down or drained.",
        ("wsbridge status on its host; `wsbridge undrain` lets it serve again",),
    ),
    "shutdown": Diagnosis(
        ProbeStep.HTTP,
        "wsbridge is shutting down.",
        ("systemctl status wsbridge on its host",),
    ),
    "closed_by_operator": Diagnosis(
        ProbeStep.BACKEND,
        "The operator of wsbridge closed the connection.",
        ("Connect again; `wsbridge close` was used, or the admin API",),
    ),
    "access_revoked": Diagnosis(
        ProbeStep.AUTHENTICATION,
        "The user or token was removed from its list while the connection was open.",
        ("wsbridge.yaml: the list of routes.NAME.auth, and its on_revoke",),
    ),
    "route_removed": Diagnosis(
        ProbeStep.BACKEND,
        "The route was removed or changed by a reload.",
        ("Connect again; wsbridge.yaml: on_remove of the route",),
    ),
    "internal_error": Diagnosis(
        ProbeStep.HTTP,
        "A bug in wsbridge.",
        ("Report the record internal_error of its log",),
    ),
    "bad_request": Diagnosis(
        ProbeStep.HTTP,
        "wsbridge did not accept the request: a proxy on the path changed it.",
        ("See the sentence in the answer, and the log of wsbridge",),
    ),
    "request_too_large": Diagnosis(
        ProbeStep.HTTP,
        "The head of the request is too large, usually because of cookies.",
        ("wsbridge.yaml: limits.max_head_bytes, max_head_line_bytes, max_headers",),
    ),
    "handshake_timeout": Diagnosis(
        ProbeStep.HTTP,
        "The request did not arrive in time.",
        ("A proxy on the path holds it back, or the path is slow: timeouts.handshake in wsbridge.yaml",),
    ),
    "idle_timeout": Diagnosis(
        ProbeStep.IDLE,
        "wsbridge closed the connection because it carried no payload; pings do not count.",
        ("wsbridge.yaml: timeouts.idle of the route",),
    ),
    "max_lifetime": Diagnosis(
        ProbeStep.IDLE,
        "wsbridge closed the connection because it had reached its maximum lifetime.",
        ("wsbridge.yaml: timeouts.max_lifetime of the route",),
    ),
    "control_flood": Diagnosis(
        ProbeStep.PING,
        "wsbridge counted too many pings or empty frames.",
        ("wsbridge.yaml: limits.control_frame_rate",),
    ),
    "unsupported_data": Diagnosis(
        ProbeStep.BACKEND,
        "wsbridge does not accept text messages on this route, or the backend sent one.",
        ("wsbridge.yaml: text_messages of the route",),
    ),
    "protocol_error": Diagnosis(
        ProbeStep.BACKEND,
        "wsbridge received frames that break RFC 6455: something on the path changes them.",
        ("Look for a proxy that does not support WebSocket, or an antivirus program that inspects it",),
    ),
    "invalid_utf8": Diagnosis(
        ProbeStep.BACKEND,
        "A text message was not valid UTF-8.",
        ("wsbridge.yaml: text_messages of the route, messages of the backend",),
    ),
    "write_stalled": Diagnosis(
        ProbeStep.BACKEND,
        "A peer accepted no data for too long.",
        ("wsbridge.yaml: timeouts.write of the route",),
    ),
}
"""Reasons, by name, that a client can get, before the 101 or in a close frame; the step that failed, and what to do."""

_REASON_VALUES: Final = frozenset(reason.value for reason in Reason)

_CLOSE_CODES: Final[dict[int, tuple[ProbeStep, str, str]]] = {
    1000: (ProbeStep.BACKEND, "The server closed the connection in order, at once.", "See the log of the server"),
    1001: (ProbeStep.BACKEND, "The server is going away: it is shutting down.", "Try again, and see its log"),
    1002: (ProbeStep.BACKEND, "The server found a protocol error.", "Look for a proxy that changes WebSocket frames"),
    1003: (ProbeStep.BACKEND, "The server does not accept this kind of data.", "Check the subprotocol"),
    1008: (
        ProbeStep.AUTHENTICATION,
        "The server closed the connection by its policy: usually missing or wrong credentials, after the 101.",
        "Send credentials: --user, --token-file or --header; and see the log of the server",
    ),
    1009: (ProbeStep.BACKEND, "A message was too large for the server.", "See the limits of the server"),
    1011: (
        ProbeStep.BACKEND,
        "The server failed: an error in it or in what is behind it.",
        "See the log of the server",
    ),
    1012: (ProbeStep.BACKEND, "The server is being restarted.", "Try again"),
    1013: (ProbeStep.BACKEND, "The server is overloaded and asks to try later.", "See its limits and its load"),
    1014: (
        ProbeStep.BACKEND,
        "What is behind the server cannot be reached.",
        "Check the service behind it, from its host",
    ),
    4401: (
        ProbeStep.AUTHENTICATION,
        "The server demands credentials, after the 101.",
        "--user, --token-file or --header",
    ),
    4403: (ProbeStep.AUTHENTICATION, "The server does not allow this, after the 101.", "Check the rights of the user"),
}


def explain_reason(reason: Reason, connection_id: str = "") -> Diagnosis:
    """Say what a reason of wsbridge means, and what to do.

    Args:
        reason: The reason.
        connection_id: Number of the connection in the log of wsbridge; empty where it is not known.
    """
    log = _LOG.format(f" of connection {connection_id}" if connection_id else "", reason.value)
    found = EXPLANATIONS.get(reason.value)
    if found is None:
        return Diagnosis(ProbeStep.BACKEND, f"wsbridge ended the connection: {reason.value}.", (log,))
    return Diagnosis(found.step, found.cause, (*found.remedies, log))


def reason_of(text: str) -> Reason | None:
    """Return the reason of wsbridge that the text of a close frame names, or None."""
    return Reason(text) if text in _REASON_VALUES else None


def explain_close(code: int | None, text: str) -> Diagnosis:
    """Say what a close frame means that came soon after the 101.

    Args:
        code: Its code; None for none.
        text: Its text: with wsbridge, the name of a reason.
    """
    reason = reason_of(text)
    if reason is not None:
        return explain_reason(reason)
    if code is None:
        return Diagnosis(
            ProbeStep.BACKEND, "The server closed the connection without a code.", ("See the log of the server",)
        )
    known = _CLOSE_CODES.get(code)
    if known is not None:
        step, cause, remedy = known
        return Diagnosis(step, cause, (remedy,))
    kind = "application's own" if code >= 4000 else "registered" if code >= 3000 else "protocol's"
    cause = f"The server closed the connection with code {code}, one of the {kind}."
    return Diagnosis(ProbeStep.BACKEND, cause, ("See the documentation and the log of the server for this code",))
