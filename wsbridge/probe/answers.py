"""What an HTTP answer to an upgrade request means: who gave it, which step failed, why, and what to change."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from wsbridge.log.format import redact
from wsbridge.probe.explanations import explain_reason
from wsbridge.probe.options import ProbeOptions
from wsbridge.probe.peers import (
    describe_greeting,
    find_reason,
    first_line,
    is_like_wsbridge,
    name_http_server,
    readable,
)
from wsbridge.probe.steps import Diagnosis, ProbeStep
from wsbridge.probe.upgrade import UpgradeAnswer
from wsbridge.protocol.handshake import parse_origin
from wsbridge.protocol.http1 import Headers, quoted, reason_phrase
from wsbridge.protocol.uri import split_host
from wsbridge.reasons import Reason

NGINX_UPGRADE: Final = (
    "nginx: in the location that leads to the server: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
    'proxy_set_header Connection "upgrade";'
)
_HAPROXY_UPGRADE: Final = (
    "HAProxy: mode http passes it on by itself: remove http-request del-header upgrade or connection"
)
_APACHE_UPGRADE: Final = "Apache: ProxyPass … upgrade=websocket, or a ws:// URL with mod_proxy_wstunnel"
_SHOWN_HEADERS: Final = (
    b"server",
    b"via",
    b"location",
    b"www-authenticate",
    b"retry-after",
    b"allow",
    b"sec-websocket-version",
    b"cf-ray",
    b"x-cache",
)
_CONNECTION_ID: Final = re.compile(rb"\(id=([0-9]{1,19})\)\s*\Z")
_LOGIN_WORDS: Final = (b"login", b"signin", b"sign-in", b"oauth", b"/sso", b"saml", b"/auth", b"access.redirect")
_CERTIFICATE_PAGES: Final = (b"No required SSL certificate was sent", b"The SSL certificate error")
_PLAIN_TO_TLS_PAGES: Final = (
    b"The plain HTTP request was sent to HTTPS port",
    b"Client sent an HTTP request to an HTTPS server",
    b"speaking plain HTTP to an SSL-enabled server port",
)
_CLOUDFLARE: Final = {
    520: "the server behind it gave an invalid answer",
    521: "the server behind it refuses the connection",
    522: "the server behind it does not answer (SYN unanswered)",
    523: "the server behind it is unreachable",
    524: "the server behind it did not answer in time",
    525: "the TLS handshake with the server behind it failed",
    526: "the certificate of the server behind it is invalid",
}


@dataclass(frozen=True, slots=True)
class HttpFacts:
    """Who answered, and with what.

    Attributes:
        status: HTTP status.
        headers: Of the answer.
        body: Its beginning; secrets that were sent are hidden.
        server: The program that answered, such as nginx; empty where nothing says it.
        reason: With which wsbridge rejected the request; None if it did not.
        wsbridge: Whether wsbridge answered.
    """

    status: int
    headers: Headers
    body: bytes
    server: str
    reason: Reason | None
    wsbridge: bool

    @property
    def who(self) -> str:
        """Who answered, in words; empty where that is not known."""
        if self.wsbridge:
            return f"wsbridge, through {self.server}" if self.server else "wsbridge"
        return self.server

    @property
    def text(self) -> str:
        """Status, phrase and who."""
        phrase = reason_phrase(self.status)
        return f"{self.status}{f' {phrase}' if phrase else ''}{f' from {self.who}' if self.who else ''}"


def read_facts(answer: UpgradeAnswer, options: ProbeOptions) -> HttpFacts:
    """Find out who gave an answer.

    Args:
        answer: One with a response.
        options: Of the probe.
    """
    assert answer.response is not None  # noqa: S101  (checked by the caller)
    headers = answer.response.headers
    body = b"" if answer.status == 101 else options.secrets.hide(answer.body)
    reason = None if answer.status == 101 else find_reason(headers, body)
    wsbridge = reason is not None or (answer.status != 101 and is_like_wsbridge(headers))
    server = name_http_server(headers, body)
    return HttpFacts(answer.status, headers, body, server, reason, wsbridge)


def answer_notes(facts: HttpFacts, options: ProbeOptions) -> tuple[str, ...]:
    """Describe an answer in lines: its headers that matter, and the first line of its body."""
    notes = []
    for name in _SHOWN_HEADERS:
        for value in facts.headers.get_all(name)[:3]:
            hidden = options.secrets.hide(value)
            shown = redact(hidden.decode("latin-1"), url=name == b"location")
            notes.append(f"{name.decode().title()}: {readable(shown.encode(), 200)}")
    line = first_line(facts.body)
    if line:
        notes.append(f"body: {redact(line)}")
    return tuple(notes)


def diagnose_answer(facts: HttpFacts, options: ProbeOptions) -> Diagnosis:
    """Say which step an answer other than 101 ends, why, and what to do."""
    if facts.reason is not None and facts.reason is not Reason.BAD_REQUEST:  # whose sentence says more
        return _diagnose_wsbridge(facts, facts.reason, options)
    for rule in _RULES:
        found = rule(facts, options)
        if found is not None:
            return found
    return Diagnosis(
        ProbeStep.HTTP,
        f"The server answered {facts.text} instead of 101: it does not accept a WebSocket here.",
        ("Check the path in the URL, and the log of the server",),
    )


def _diagnose_wsbridge(facts: HttpFacts, reason: Reason, options: ProbeOptions) -> Diagnosis:
    number = _CONNECTION_ID.search(facts.body)
    found = explain_reason(reason, "" if number is None else number[1].decode("ascii"))
    if reason is Reason.ORIGIN_NOT_ALLOWED:
        return _diagnose_wsbridge_origin(found, facts, options)
    if reason is Reason.UNAUTHENTICATED:
        return _diagnose_credentials(found, facts, options)
    if reason is Reason.NO_ROUTE:
        cause = f"No route of wsbridge matches host {options.host} and path {options.target.path.partition('?')[0]}."
        return replace(found, cause=cause)
    return found


def _diagnose_wsbridge_origin(found: Diagnosis, facts: HttpFacts, options: ProbeOptions) -> Diagnosis:
    """Distinguish the Origin of another page from a Host header that a proxy changed."""
    if options.origin is None:
        return replace(found, cause="The request has several Origin headers, or a proxy adds one.")
    origin = parse_origin(options.origin)
    host = split_host(options.host)
    allow = f'wsbridge.yaml: routes.NAME.allowed_origins: ["{options.origin}"]'
    proxy = (
        f"{facts.server or 'A proxy'} in front must pass the Host header on unchanged: nginx: "
        "proxy_set_header Host $http_host;"
    )
    if origin is not None and host is not None and origin[1] == host[0]:
        return Diagnosis(
            found.step,
            f"The Origin {options.origin} is that of the host in the URL, and wsbridge does not see it so: a "
            "proxy in front "
            "changes the Host header, or the route accepts other origins only.",
            (proxy, allow, *found.remedies[-1:]),
        )
    cause = f"The route does not accept the Origin {options.origin}."
    return Diagnosis(found.step, cause, (allow, proxy, *found.remedies[-1:]))


def _diagnose_credentials(found: Diagnosis, facts: HttpFacts, options: ProbeOptions) -> Diagnosis:
    """Say what the server wants and what it got (RFC 9110 section 11.6.1)."""
    schemes = (value.split(b" ")[0] for value in facts.headers.get_all(b"www-authenticate"))
    wanted = sorted({readable(scheme, 20) for scheme in schemes})
    wants = f"; it accepts {' or '.join(wanted)}" if wanted else ""
    if not options.credential:
        cause = f"The server requires credentials, and none were sent{wants}."
        return replace(found, cause=cause)
    sent = options.credential.partition(" ")[0]
    if wanted and sent in ("Basic", "Bearer") and sent.lower() not in {one.lower() for one in wanted}:
        option = "--user NAME" if "Basic" in wanted else "--token-file FILE"
        cause = f"The server accepts {' or '.join(wanted)}, and {options.credential} was sent."
        return Diagnosis(found.step, cause, (f"Send what it accepts: {option}", *found.remedies[1:]))
    cause = f"The credentials are not valid: {options.credential} was sent{wants}."
    return Diagnosis(
        found.step, cause, ("Check name, password or token: expired, for another route, misspelled", *found.remedies)
    )


# ---- rules for answers of others, and of wsbridge without the name of a reason; the first that fits decides


def _on_tls_port(facts: HttpFacts, options: ProbeOptions) -> Diagnosis | None:
    if not any(page in facts.body for page in _PLAIN_TO_TLS_PAGES):
        return None
    return speaks_tls_diagnosis(options)


def _certificate_demanded(facts: HttpFacts, _options: ProbeOptions) -> Diagnosis | None:
    if facts.status != 400 or not any(page in facts.body for page in _CERTIFICATE_PAGES):
        return None
    return Diagnosis(
        ProbeStep.TLS,
        "The server demands a client certificate (mTLS), and got none or one that it does not trust.",
        (
            "For this command: --client-cert FILE --client-key FILE",
            (
                "wsbridge as the client: client_certificate of the backend; nginx: ssl_client_certificate, "
                "ssl_verify_client"
            ),
        ),
    )


def _wsbridge_sentence(facts: HttpFacts, options: ProbeOptions) -> Diagnosis | None:
    """Read a sentence of wsbridge about a request that it did not accept."""
    if not facts.wsbridge or facts.status not in (400, 403, 405, 431):
        return None
    if b"subprotocol" in facts.body:
        return subprotocol_diagnosis(options)
    if facts.status == 431:
        return explain_reason(Reason.REQUEST_TOO_LARGE)
    if b"Connection: Upgrade" in facts.body or b"Sec-WebSocket-Key" in facts.body:
        return dropped_upgrade_diagnosis(facts)
    return explain_reason(Reason.BAD_REQUEST)


def _upgrade_dropped(facts: HttpFacts, _options: ProbeOptions) -> Diagnosis | None:
    """Recognize that the server behind a proxy did not get what was sent: a complete upgrade request."""
    body = facts.body.lower()
    says_so = b"upgrade" in body or b"connection header" in body or b"websocket" in body
    if facts.status == 426 or (facts.status in (400, 404, 405, 501) and says_so):
        return dropped_upgrade_diagnosis(facts)
    return None


def _redirect(facts: HttpFacts, options: ProbeOptions) -> Diagnosis | None:
    if facts.status not in (301, 302, 303, 307, 308):
        return None
    location = options.secrets.hide(facts.headers.get(b"location") or b"")
    shown = quoted(redact(location.decode("latin-1"), url=True), 160)
    if any(word in location.lower() for word in _LOGIN_WORDS):
        return Diagnosis(
            ProbeStep.AUTHENTICATION,
            f"The server redirects to {shown}: it requires a login, which WebSocket clients cannot follow.",
            (
                "Send what the browser sends after the login: --header 'Cookie: …'",
                (
                    "Exempt the path of the WebSocket from the login at the proxy, and authenticate in wsbridge "
                    "(routes.NAME.auth)"
                ),
            ),
        )
    remedy = "Write the address that it redirects to into the URL: WebSocket clients follow no redirects"
    if options.target.scheme == "ws" and location.lower().startswith(b"https://"):
        return Diagnosis(
            ProbeStep.HTTP, f"The server redirects to TLS: {shown}.", ("Write wss:// for ws:// in the URL", remedy)
        )
    return Diagnosis(
        ProbeStep.HTTP,
        f"The server redirects to {shown}.",
        (remedy, "nginx: a location /x/ redirects /x; write location = /x, or the slash into the URL"),
    )


def _credentials(facts: HttpFacts, options: ProbeOptions) -> Diagnosis | None:
    if facts.status not in (401, 407):
        return None
    remedies = (
        "Send them: --user NAME, --token-file FILE or --header 'Name: value'",
        (
            f"{facts.server or 'The server'} answered, not wsbridge: nginx: auth_basic, auth_request; HAProxy: "
            "http-request auth"
        ),
    )
    return _diagnose_credentials(Diagnosis(ProbeStep.AUTHENTICATION, "", remedies), facts, options)


def _forbidden(facts: HttpFacts, options: ProbeOptions) -> Diagnosis | None:
    if facts.status != 403:
        return None
    who = facts.server or "The server"
    if facts.server == "Cloudflare":
        text = "Cloudflare does not let the request through: a rule of its firewall, or a challenge for browsers."
        return Diagnosis(
            ProbeStep.HTTP, text, ("Cloudflare: Security > WAF: skip the rule for the path of the WebSocket",)
        )
    credentials = "the credentials do not permit this, " if options.credential else "credentials are required, "
    return Diagnosis(
        ProbeStep.AUTHENTICATION,
        f"{who} does not allow this: {credentials}or the address of this host is not allowed.",
        (
            (
                "Send credentials: --user NAME, --token-file FILE or --header 'Name: value'; the Origin of a "
                "page: --origin"
            ),
            "nginx: allow and deny, auth_request; HAProxy: http-request deny; and its log",
        ),
    )


def _page(facts: HttpFacts, _options: ProbeOptions) -> Diagnosis | None:
    if not 200 <= facts.status < 300:
        return None
    return Diagnosis(
        ProbeStep.HTTP,
        "The server answered as to a plain HTTP request: the path is that of a page, not of a WebSocket, or "
        "a proxy on the "
        "path drops the Upgrade header.",
        ("Check the path in the URL", *dropped_upgrade_diagnosis(facts).remedies),
    )


def _not_found(facts: HttpFacts, options: ProbeOptions) -> Diagnosis | None:
    if facts.status not in (404, 410, 405):
        return None
    path = options.target.path.partition("?")[0]
    who = facts.server or "the server"
    return Diagnosis(
        ProbeStep.HTTP,
        f"There is no WebSocket at {path}: {who} does not pass the path on, or does not know the host {options.host}.",
        (
            "Check the path in the URL",
            (
                f"nginx: a location {path} with proxy_pass to wsbridge, in the server with this server_name; "
                "HAProxy: use_backend"
            ),
            *(dropped_upgrade_diagnosis(facts).remedies if facts.status != 410 else ()),
        ),
    )


def _misdirected(facts: HttpFacts, options: ProbeOptions) -> Diagnosis | None:
    if facts.status != 421:
        return None
    return Diagnosis(
        ProbeStep.HTTP,
        f"The server is not responsible for the host {options.host}, or the name in TLS (SNI) is another one.",
        ("Use the same name as --host and --server-name, and add it to the server: nginx: server_name",),
    )


def _proxy_without_server(facts: HttpFacts, _options: ProbeOptions) -> Diagnosis | None:
    """Read the answers of a proxy that does not reach what is behind it."""
    if facts.status not in (502, 503, 504) and facts.status not in _CLOUDFLARE:
        return None
    who = facts.server or "A proxy, or the server,"
    if facts.status in _CLOUDFLARE:
        return Diagnosis(
            ProbeStep.HTTP,
            f"{who} answered for the server: {_CLOUDFLARE[facts.status]}.",
            ("Probe the server itself, by its own address: wsbridge probe URL --host NAME --server-name NAME",),
        )
    how = {
        502: "cannot connect to the server behind it, or got no valid answer",
        503: "has no server behind it that is up, or is overloaded",
        504: "got no answer in time from the server behind it (SYN unanswered, or it hangs)",
    }[facts.status]
    return Diagnosis(
        ProbeStep.HTTP,
        f"{who} {how}.",
        (
            (
                "Start wsbridge (systemctl status wsbridge), and let the proxy lead to listeners.NAME.bind "
                "of wsbridge.yaml: "
                "nginx: proxy_pass, and error.log; HAProxy: server, and its log (health checks: option "
                "httpchk GET /readyz)"
            ),
            "On the host of the proxy, probe wsbridge itself: wsbridge probe ws://ADDRESS:PORT/PATH",
            "nginx under SELinux: setsebool -P httpd_can_network_connect 1",
        ),
    )


def _too_many(facts: HttpFacts, _options: ProbeOptions) -> Diagnosis | None:
    if facts.status != 429:
        return None
    text = f"{facts.server or 'The server'} limits how often this address may connect."
    return Diagnosis(
        ProbeStep.HTTP, text, ("nginx: limit_req, limit_conn; HAProxy: stick-table; wait, and see Retry-After",)
    )


_RULES: Final[tuple[Callable[[HttpFacts, ProbeOptions], Diagnosis | None], ...]] = (
    _on_tls_port,
    _certificate_demanded,
    _wsbridge_sentence,
    _upgrade_dropped,
    _redirect,
    _credentials,
    _forbidden,
    _page,
    _not_found,
    _misdirected,
    _proxy_without_server,
    _too_many,
)


def dropped_upgrade_diagnosis(facts: HttpFacts) -> Diagnosis:
    """Say that a proxy dropped the headers of the upgrade, or speaks HTTP/1.0."""
    http10 = b"HTTP/1.0" in facts.body
    what = "speaks HTTP/1.0 to the server behind it" if http10 else "drops the Upgrade or Connection header"
    who = facts.server or "A proxy on the path"
    remedies: tuple[str, ...] = (NGINX_UPGRADE, _HAPROXY_UPGRADE, _APACHE_UPGRADE)
    if facts.server == "nginx":
        remedies = remedies[:1]
    elif facts.server == "HAProxy":
        remedies = remedies[1:2]
    elif facts.server == "Apache":
        remedies = remedies[2:]
    return Diagnosis(ProbeStep.HTTP, f"{who} {what}: the server did not get a request for a WebSocket.", remedies)


def subprotocol_diagnosis(options: ProbeOptions) -> Diagnosis:
    """Say that the server accepts none of the subprotocols that were offered."""
    return Diagnosis(
        ProbeStep.SUBPROTOCOL,
        f"The server does not accept the subprotocols that were offered: {options.shown_subprotocols or 'none'}.",
        (
            f"wsbridge.yaml: routes.NAME.subprotocols: [{options.shown_subprotocols or 'binary'}], or any",
            "Offer what the server speaks: --subprotocol NAME; a page: new WebSocket(url, [NAME])",
        ),
    )


def speaks_tls_diagnosis(options: ProbeOptions) -> Diagnosis:
    """Say that a port speaks TLS and was asked without."""
    return Diagnosis(
        ProbeStep.HTTP,
        "This port speaks TLS, and the request came without.",
        (
            f"Write wss:// for {options.target.scheme}:// in the URL",
            (
                "wsbridge as the client: routes.NAME.backend: wss:// for ws://; nginx: proxy_pass https://; "
                "HAProxy: server … ssl"
            ),
        ),
    )


def diagnose_no_answer(answer: UpgradeAnswer, options: ProbeOptions, *, speaks_tls: bool) -> Diagnosis:
    """Say why there is no valid response.

    Args:
        answer: With a problem.
        options: Of the probe.
        speaks_tls: Whether the port answered a TLS hello.
    """
    if answer.problem == "tls" or (speaks_tls and options.context is None):
        return speaks_tls_diagnosis(options)
    plain = "tcp" if options.context is None else "tls"
    raw = (
        f"Write {plain}:// for {options.target.scheme}:// if it is a service without WebSocket, and have "
        "wsbridge in front of it"
    )
    if answer.problem == "not_http":
        text = f"What listens there does not speak HTTP; it sends {describe_greeting(answer.first_bytes)}."
        return Diagnosis(ProbeStep.HTTP, text, (raw, "Check host and port in the URL"))
    if answer.problem == "timeout" and not answer.first_bytes:
        return Diagnosis(
            ProbeStep.HTTP,
            "The server accepted the connection and did not answer the request: it hangs, waits for what is "
            "behind it, or "
            "speaks another protocol.",
            (
                "See whether the process works: systemctl status, its log, its CPU (top)",
                "If it waits for a backend: --timeout 60s shows its answer; wsbridge: timeouts.connect",
                raw,
            ),
        )
    if answer.problem in ("timeout", "cut"):
        return Diagnosis(
            ProbeStep.HTTP,
            "The answer broke off within its head: the server or a proxy failed while it answered.",
            ("See the log of the server, and of the proxies in front of it",),
        )
    if answer.problem in ("closed", "reset"):
        how = "closed" if answer.problem == "closed" else "reset"
        return Diagnosis(
            ProbeStep.HTTP,
            f"The server {how} the connection without an answer: it expects something else than HTTP, or rejects this "
            "address.",
            (
                (
                    "wsbridge.yaml: a listener with protocol: tcp speaks no WebSocket; one with client_address_from: "
                    "proxy-protocol expects a PROXY header first, and so do bind … accept-proxy of HAProxy "
                    "and listen … "
                    "proxy_protocol of nginx: connect by the proxy, not directly"
                ),
                "A banned address or a firewall that inspects requests: see the log of the server",
                raw,
            ),
        )
    return Diagnosis(
        ProbeStep.HTTP,
        f"The answer is not valid HTTP: {answer.detail.replace('the backend', 'the server')}.",
        ("See the log of the server; check host and port in the URL",),
    )


def diagnose_bad_switch(detail: str, options: ProbeOptions) -> Diagnosis:
    """Say what is wrong with a 101 that breaks RFC 6455 section 4.1.

    Args:
        detail: The sentence of `check_upgrade_response`.
        options: Of the probe.
    """
    detail = detail.replace("the backend's", "its").replace("the backend", "the server")
    if "subprotocol" in detail:
        return Diagnosis(
            ProbeStep.SUBPROTOCOL,
            f"The server answered 101, but {detail}: clients close such a connection.",
            (
                "Offer that subprotocol: --subprotocol NAME",
                (
                    "Correct the server: it may select only one of those that the client offers "
                    f"({options.shown_subprotocols or 'none'})"
                ),
            ),
        )
    return Diagnosis(
        ProbeStep.HTTP,
        f"The 101 is not valid: {detail}. Clients close such a connection.",
        (
            (
                "The program that answers does not implement WebSocket (RFC 6455), or a proxy or cache on "
                "the path changes or "
                "repeats its answer: probe the server without the proxy"
            ),
        ),
    )
