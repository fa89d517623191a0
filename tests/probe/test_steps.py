"""Each step of a probe, against servers that fail in one way: the step, the cause, the remedy and the exit code."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from pathlib import Path

import pytest

from tests import authority
from tests.cli.backends import Handler, serving
from tests.clients.program import free_port
from tests.probe import certificates
from tests.probe.probing import (
    answer_pings,
    answers,
    close_frame,
    header,
    over_tls,
    page,
    probe,
    read_head,
    switch,
    unanswered,
    wait_for_end,
    websocket,
)


def reset(sock: socket.socket) -> None:
    """Read a request and reset the connection."""
    read_head(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def silent(sock: socket.socket) -> None:
    """Never answer."""
    wait_for_end(sock)


def greeter(text: bytes) -> Handler:
    """Send a greeting, as SSH and VNC servers do."""

    def handle(sock: socket.socket) -> None:
        sock.sendall(text)
        wait_for_end(sock)

    return handle


def switched(then: Handler, *headers: str) -> Handler:
    """Accept the WebSocket, and go on like this."""

    def handle(sock: socket.socket) -> None:
        switch(sock, *headers)
        then(sock)

    return handle


def sends(data: bytes) -> Handler:
    """Send bytes and wait for the end."""
    return greeter(data)


# ---- success


def test_every_step_succeeds() -> None:
    """A server that is in order: every step is reported, and the round trip is measured."""

    def handle(sock: socket.socket) -> None:
        switch(sock, "Sec-WebSocket-Protocol: binary", "Server: nginx")
        sock.sendall(b"\x82\x0cRFB 003.008\n")
        answer_pings(sock)

    with serving(handle) as port:
        origin = f"http://127.0.0.1:{port}"
        done = probe(f"ws://127.0.0.1:{port}/x", "--origin", origin, "--subprotocol", "binary", "--user", "me:secret")
    assert (done.code, done.failed, done.facts["ok"]) == (0, None, True)
    results = [(one["step"], one["result"]) for one in done.facts["steps"]]
    assert results == [
        ("dns", "skipped"),
        ("tcp", "ok"),
        ("http", "ok"),
        ("origin", "ok"),
        ("subprotocol", "ok"),
        ("authentication", "ok"),
        ("backend", "ok"),
        ("ping", "ok"),
    ]
    assert "a VNC server" in done.step("backend")["text"]
    assert len(done.facts["round_trip_seconds"]) == 2
    assert "secret" not in str(done.facts)


def test_a_name_is_looked_up_and_each_address_tried() -> None:
    """Of two addresses one is refused: a warning, with both."""
    with serving(websocket) as port:
        done = probe(f"ws://localhost:{port}/")
    assert done.code == 0
    assert done.step("dns")["facts"]["addresses"]
    attempts = {one["address"]: one["result"] for one in done.step("tcp")["facts"]["attempts"]}
    assert attempts[f"127.0.0.1:{port}"] == "connected"
    if f"[::1]:{port}" in attempts:
        assert done.step("tcp")["result"] == "warning"
        assert "1 of 2 addresses" in done.step("tcp")["text"]


# ---- DNS and TCP


def test_a_name_that_does_not_exist() -> None:
    """DNS fails."""
    probe("ws://nowhere.invalid/", quick=False).expect("dns", 10, "nowhere.invalid|DNS server", "getent|dig|resolv")


def test_nothing_listens() -> None:
    """The connection is refused."""
    port = free_port()
    done = probe(f"ws://127.0.0.1:{port}/")
    done.expect("tcp", 11, "nothing listens on port", rf"listeners.NAME.bind|sport = :{port}")


def test_the_syn_is_not_answered() -> None:
    """A firewall drops the packets."""
    with unanswered() as port:
        done = probe(f"tcp://127.0.0.1:{port}")
    done.expect("tcp", 11, "SYN was not answered: a firewall", f"Allow TCP port {port}")
    assert done.step("tcp")["facts"]["attempts"][0]["result"] == "unanswered"


def test_a_unix_socket_that_does_not_exist(tmp_path: Path) -> None:
    """There is no such socket."""
    done = probe(f"ws+unix:{tmp_path}/none:/vnc")
    done.expect("tcp", 11, "There is no socket", "listeners.NAME.bind: unix:PATH")


def test_a_unix_socket_that_nobody_serves(tmp_path: Path) -> None:
    """The service has left its socket behind."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    probe(f"unix:{tmp_path}/left").expect("tcp", 11, "Nothing listens on the socket", "Start the service again")


# ---- proxy


@pytest.mark.parametrize(
    ("answer", "cause", "remedy"),
    [
        (page("407 No", "", 'Proxy-Authenticate: Basic realm="x"'), "requires authentication", "--proxy http://USER"),
        (page("403 Forbidden"), "does not allow a tunnel", "acl SSL_ports"),
        (page("503 Service Unavailable", "", "Server: squid"), "cannot reach the target", "as the proxy sees them"),
        (page("404 Not Found"), "may be a web server", "--proxy, https_proxy"),
        ("garbage\r\n\r\n", "no answer of an HTTP proxy", "--proxy off"),
        ("", "no answer of an HTTP proxy", "--proxy off"),
    ],
)
def test_a_proxy_that_opens_no_tunnel(answer: str, cause: str, remedy: str) -> None:
    """The proxy's answer is explained."""
    with serving(answers(answer)) as port:
        done = probe("ws://gw.example.org/", "--proxy", f"http://me:hidden-word@127.0.0.1:{port}")
    done.expect("proxy", 12, cause, remedy)
    assert "hidden-word" not in str(done.facts)


def test_a_proxy_that_is_silent() -> None:
    """CONNECT is not answered."""
    with serving(silent) as port:
        done = probe("ws://gw.example.org/", "--proxy", f"http://127.0.0.1:{port}")
    done.expect("proxy", 12, "did not answer CONNECT", "--timeout 60s")


def test_a_proxy_of_http_1_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens a tunnel in HTTP/1.0; what is behind it is probed as ever. The environment names it."""

    def handle(sock: socket.socket) -> None:
        assert read_head(sock).startswith("CONNECT gw.example.org:80 ")
        sock.sendall(b"HTTP/1.0 200 Connection established\r\n\r\n")
        websocket(sock)

    with serving(handle) as port:
        done = probe("ws://gw.example.org/", "--proxy", f"http://127.0.0.1:{port}")
    assert done.code == 0
    assert "opened a tunnel to gw.example.org:80" in done.step("proxy")["text"]


def test_tls_through_a_proxy() -> None:
    """The certificate is that of the server, and also asked for once more through the proxy."""

    def handle(sock: socket.socket) -> None:
        assert read_head(sock).startswith("CONNECT gw.example.org:443 ")
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        over_tls(certificates.server("gw.example.org"), websocket)(sock)

    with serving(handle) as port:
        args = ("wss://gw.example.org/", "--proxy", f"http://127.0.0.1:{port}")
        done = probe(*args, "--ca", certificates.ca_file())
        assert (done.code, done.step("tls")["facts"]["certificate_names"]) == (0, ["gw.example.org"])
        done = probe(*args)
        done.expect("tls", 13, "Own Authority.* is not trusted here", "--ca FILE")
        assert done.step("tls")["facts"]["certificates_sent"] == 1


# ---- TLS


@pytest.mark.parametrize(
    ("context", "args", "cause", "remedy"),
    [
        (lambda: certificates.server("localhost"), (), "Own Authority.* is not trusted here", "--ca FILE"),
        (
            lambda: certificates.server("localhost", whole_chain=False),
            ("--ca", "OWN"),
            "sends no intermediate certificate",
            "fullchain.pem",
        ),
        (
            lambda: certificates.server("gw.example.org"),
            ("--ca", "OWN"),
            "is for gw.example.org, not for localhost",
            "server_name",
        ),
        (lambda: certificates.server("localhost", days=-3), ("--ca", "OWN"), "expired on", "certbot renew"),
        (
            lambda: certificates.server("localhost", demand=True),
            ("--ca", "OWN"),
            "demands a client certificate",
            "--client-cert FILE",
        ),
    ],
    ids=["unknown authority", "missing intermediate", "wrong name", "expired", "client certificate"],
)
def test_a_certificate_that_is_rejected(context: object, args: tuple[str, ...], cause: str, remedy: str) -> None:
    """What is wrong with a certificate, and its facts."""
    assert callable(context)
    args = tuple(certificates.ca_file() if word == "OWN" else word for word in args)
    with serving(over_tls(context(), websocket)) as port:
        for scheme in ("wss", "tls"):
            probe(f"{scheme}://localhost:{port}", *args).expect("tls", 13, cause, remedy)


def test_the_facts_of_a_certificate() -> None:
    """Names, issuer and end of a certificate are reported, and that it ends soon; also without verification."""
    with serving(over_tls(certificates.server("localhost", "gw.example.org", days=5), websocket)) as port:
        done = probe(f"wss://localhost:{port}/", "--ca", certificates.ca_file())
        unverified = probe(f"wss://localhost:{port}/", "--insecure")
    facts = done.step("tls")["facts"]
    assert (done.code, facts["certificate_names"]) == (0, ["localhost", "gw.example.org"])
    assert (facts["version"], facts["certificate_days_left"], facts["certificates_sent"]) == ("TLSv1.3", 4, 1)
    assert done.step("tls")["result"] == "warning"
    assert any("expires in 4 days" in note for note in done.step("tls")["notes"])
    assert unverified.code == 0
    assert any("not verified" in note for note in unverified.step("tls")["notes"])


def test_since_when_a_certificate_has_expired() -> None:
    """In whole days, negative for scripts."""
    with serving(over_tls(certificates.server("localhost", days=-3), websocket)) as port:
        done = probe(f"wss://localhost:{port}/", "--ca", certificates.ca_file())
    assert done.step("tls")["facts"]["certificate_days_left"] == -3
    assert any("expired 3 days ago" in note for note in done.step("tls")["notes"])


def test_a_client_certificate_is_shown() -> None:
    """With --client-cert the server that demands one is satisfied."""
    cert, key = certificates.client_pair()
    args = ("--ca", certificates.ca_file(), "--client-cert", cert, "--client-key", key)
    with serving(over_tls(certificates.server("localhost", demand=True), websocket)) as port:
        assert probe(f"wss://localhost:{port}/", *args).code == 0


def test_a_client_certificate_is_demanded_by_a_server_that_resets() -> None:
    """The alert is lost when the request was written before it came: another connection, without one, finds it."""
    handler = over_tls(certificates.server("localhost", demand=True), websocket, lingers=False)
    with serving(handler) as port:
        done = probe(f"wss://localhost:{port}/", "--ca", certificates.ca_file())
    done.expect("tls", 13, "demands a client certificate", "--client-cert FILE")


def test_a_client_certificate_is_demanded_in_tls_1_2() -> None:
    """There the alert comes in the handshake."""
    context = certificates.server("localhost", demand=True, days=91)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving(over_tls(context, websocket)) as port:
        done = probe(f"wss://localhost:{port}/", "--ca", certificates.ca_file())
    done.expect("tls", 13, "demands a client certificate|client certificate", "--client-cert FILE")


def closes(sock: socket.socket) -> None:
    """Close at once."""


@pytest.mark.parametrize(
    ("handler", "cause", "remedy"),
    [
        (greeter(b"SSH-2.0-OpenSSH_9.2\r\n"), "does not speak TLS; it sends .*an SSH server", "Write ws:// for wss://"),
        (silent, "does not answer when it gets a TLS hello", "Without TLS: write ws://"),
        (closes, "closes the connection when it gets a TLS hello", "client_address_from: proxy-protocol"),
    ],
)
def test_tls_to_a_port_without(handler: Handler, cause: str, remedy: str) -> None:
    """What speaks there instead is found out by a second connection."""
    with serving(handler) as port:
        probe(f"wss://localhost:{port}/").expect("tls", 13, cause, remedy)


def test_tls_to_a_port_with_plain_http() -> None:
    """An HTTP server answers the second connection."""

    def handle(sock: socket.socket) -> None:
        if sock.recv(1, socket.MSG_PEEK) == b"\x16":
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        else:
            answers(page("404 Not Found"))(sock)

    with serving(handle) as port:
        probe(f"wss://localhost:{port}/").expect("tls", 13, "speaks HTTP without TLS", "Write ws:// for wss://")


# ---- HTTP

TLS_PAGE = "<html><center>The plain HTTP request was sent to HTTPS port</center><center>nginx</center></html>"


@pytest.mark.parametrize(
    ("handler", "cause", "remedy"),
    [
        (silent, "did not answer the request", "systemctl status"),
        (lambda sock: read_head(sock) and None, "closed the connection without an answer", "protocol: tcp"),
        (reset, "reset the connection without an answer", "protocol: tcp"),
        (answers("HTTP/1.1 101 Switching Protocols\r\nUpgra"), "broke off within its head", "log of the server"),
        (answers("HTTP/1.1 200 OK\r\nServer: x", hold=True), "broke off within its head", "log of the server"),
        (
            greeter(b"SSH-2.0-OpenSSH_9.2\r\n"),
            "does not speak HTTP; it sends .*an SSH server",
            "Write tcp:// for ws://",
        ),
        (answers("HTTP/1.1 20x\r\n\r\n"), "not valid HTTP", "log of the server"),
        (answers("HTTP/1.1 200 OK\r\n" + "X: y\r\n" * 20000), "not valid HTTP", "log of the server"),
        (answers(page("200 OK", "<title>Hi</title>")), "as to a plain HTTP request", "Upgrade"),
        (answers(page("301 Moved", "", "Location: https://gw.example.org/vnc")), "redirects to TLS", "Write wss://"),
        (answers(page("302 Found", "", "Location: /vnc/")), 'redirects to "/vnc/"', "follow no redirects"),
        (answers(page("404 Not Found", "", "Server: nginx/1.22")), "nginx does not pass the path", "nginx: a location"),
        (
            answers(page("426 Upgrade Required", "", "Server: nginx")),
            "nginx drops the Upgrade",
            "proxy_http_version 1.1",
        ),
        (answers(page("400 Bad Request", "missing Connection header")), "drops the Upgrade", "Apache: ProxyPass"),
        (answers(page("400 Bad Request", TLS_PAGE)), "This port speaks TLS", "Write wss:// for ws://"),
        (answers(page("421 Misdirected")), "not responsible for the host", "--server-name"),
        (answers(page("429 Too Many", "", "Retry-After: 7")), "how often this address", "limit_req"),
        (answers(page("502 Bad Gateway", "<center>nginx</center>")), "nginx cannot connect", "proxy_pass"),
        (answers(page("503 No", "No server is available to handle this request.")), "HAProxy has no server", "httpchk"),
        (
            answers(page("504 Gateway Time-out", "", "Server: nginx")),
            "nginx got no answer in time",
            "probe wsbridge itself",
        ),
        (
            answers(page("522 x", "", "Server: cloudflare", "CF-RAY: 1")),
            "Cloudflare answered .*SYN unanswered",
            "itself",
        ),
        (answers(page("418 Teapot")), "418", "Check the path"),
    ],
)
def test_answers_that_are_no_101(handler: Handler, cause: str, remedy: str) -> None:
    """Each has its typical cause."""
    with serving(handler) as port:
        probe(f"ws://127.0.0.1:{port}/vnc").expect("http", 14, cause, remedy)


def test_an_endless_body_is_cut() -> None:
    """No more than the beginning of a body is read."""

    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(b"x" * 65536)

    with serving(handle) as port:
        done = probe(f"ws://127.0.0.1:{port}/")
    done.expect("http", 14, "500", "log of the server")
    assert len(str(done.facts)) < 4000


def test_without_tls_to_a_port_with() -> None:
    """The port is asked by a TLS hello."""
    with serving(over_tls(authority.server_context(), websocket)) as port:
        done = probe(f"ws://127.0.0.1:{port}/")
    done.expect("http", 14, "speaks TLS, and the request came without", "Write wss:// for ws://")


@pytest.mark.parametrize(
    ("accept", "more", "cause"),
    [
        ("", "", "its Sec-WebSocket-Accept is missing"),
        (
            "Sec-WebSocket-Accept: bm90IHRoZSByaWdodCBvbmU=\r\n",
            "",
            "its Sec-WebSocket-Accept is missing, repeated or wrong",
        ),
        ("", "Connection: close\r\n", "has no Connection: Upgrade"),
    ],
)
def test_a_101_that_is_not_valid(accept: str, more: str, cause: str) -> None:
    """A 101 of something that does not implement WebSocket."""
    connection = more or "Connection: Upgrade\r\n"
    text = f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n{connection}{accept}\r\n"
    with serving(answers(text, hold=True)) as port:
        probe(f"ws://127.0.0.1:{port}/").expect("http", 14, cause, "RFC 6455")


def test_a_proxy_that_demands_a_client_certificate_by_http() -> None:
    """As nginx does: it is a matter of TLS."""
    body = "<center>No required SSL certificate was sent</center><center>nginx</center>"
    with serving(over_tls(certificates.server("localhost"), answers(page("400 Bad Request", body)))) as port:
        done = probe(f"wss://localhost:{port}/", "--ca", certificates.ca_file())
    done.expect("tls", 13, "demands a client certificate", "--client-cert")


# ---- Origin, subprotocol, authentication


def only_if(name: str, value: str, status: str) -> Handler:
    """Accept requests whose header has this value, reject all others."""

    def handle(sock: socket.socket) -> None:
        if header(sock.recv(65536, socket.MSG_PEEK).decode("latin-1"), name) == value:
            websocket(sock)
        else:
            read_head(sock)
            sock.sendall(page(status).encode())

    return handle


def test_an_origin_that_a_server_does_not_accept() -> None:
    """No server but wsbridge says so: the request is repeated without Origin."""
    with serving(only_if("Origin", "", "403 Forbidden")) as port:
        done = probe(f"ws://127.0.0.1:{port}/", "--origin", "https://evil.example")
    done.expect("origin", 15, "does not accept the Origin https://evil.example", "allowed_origins")


def test_an_origin_that_a_server_requires() -> None:
    """The request is repeated with the Origin of the same host."""
    with serving(lambda sock: only_if("Origin", f"http://127.0.0.1:{sock.getsockname()[1]}", "403 No")(sock)) as port:
        done = probe(f"ws://127.0.0.1:{port}/")
    done.expect("origin", 15, "requires an Origin", f"--origin http://127.0.0.1:{port}")


def test_subprotocols_that_a_server_does_not_accept() -> None:
    """The request is repeated without them."""
    with serving(only_if("Sec-WebSocket-Protocol", "", "400 Bad Request")) as port:
        done = probe(f"ws://127.0.0.1:{port}/", "--subprotocol", "mqtt")
    done.expect("subprotocol", 16, "does not accept the subprotocols .*: mqtt", r"routes.NAME.subprotocols: \[mqtt\]")


@pytest.mark.parametrize(
    ("headers", "cause"),
    [((), "selected none of the offered"), (("Sec-WebSocket-Protocol: amqp",), "amqp.*was not offered")],
)
def test_a_subprotocol_that_does_not_fit(headers: tuple[str, ...], cause: str) -> None:
    """Browsers close such a connection."""
    with serving(switched(answer_pings, *headers)) as port:
        done = probe(f"ws://127.0.0.1:{port}/", "--subprotocol", "mqtt")
    done.expect("subprotocol", 16, cause, "subprotocol")


def test_tokens_in_subprotocols_are_not_shown() -> None:
    """As pages send them: neither where they were offered nor where a server that is wrong selects them."""
    token = "wsbridge.token.hidden-word"
    with serving(switched(answer_pings, f"Sec-WebSocket-Protocol: {token}")) as port:
        url = f"ws://127.0.0.1:{port}/"
        selected = probe(url, "--subprotocol", "mqtt", "--subprotocol", token)
        other = probe(url, "--subprotocol", "mqtt")
    assert "wsbridge.token.***" in selected.step("subprotocol")["text"]
    assert "hidden-word" not in str(selected.facts)
    other.expect("subprotocol", 16, "was not offered", "Correct the server")


BASIC = 'WWW-Authenticate: Basic realm="x"'


@pytest.mark.parametrize(
    ("answer", "args", "cause", "remedy"),
    [
        (page("401 Unauthorized", "", BASIC), (), "none were sent; it accepts Basic", "--user NAME"),
        (
            page("401 Unauthorized", "", BASIC),
            ("--user", "me:hidden-word"),
            r"not valid: Basic \(user me\)",
            "misspelled",
        ),
        (
            page("401 Unauthorized", "", BASIC),
            ("--token", "hidden-word"),
            "accepts Basic, and Bearer token was",
            "--user",
        ),
        (page("403 Forbidden"), ("--header", "Cookie: a=hidden-word"), "do not permit this", "allow and deny"),
        (page("302 Found", "", "Location: /login?next=hidden-word"), (), "requires a login", "Cookie"),
    ],
)
def test_authentication(answer: str, args: tuple[str, ...], cause: str, remedy: str) -> None:
    """What a server wants, and what it got; secrets are not shown, even where the server repeats them."""
    with serving(answers(answer.replace("Length: 0", "Length: 11") + "hidden-word")) as port:
        done = probe(f"ws://127.0.0.1:{port}/", *args)
    done.expect("authentication", 17, cause, remedy)
    if args:
        assert "hidden-word" not in str(done.facts)


# ---- after the 101


def fin(sock: socket.socket) -> None:
    """Close without a Close frame."""


def rst(sock: socket.socket) -> None:
    """Reset."""
    time.sleep(0.05)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    ("then", "step", "code", "cause", "remedy"),
    [
        (sends(close_frame(1011)), "backend", 18, "The server failed", "log of the server"),
        (sends(close_frame(1013)), "backend", 18, "overloaded", "load"),
        (sends(close_frame(1000)), "backend", 18, "in order, at once", "log"),
        (sends(close_frame(4000, "nope")), "backend", 18, "code 4000, one of the application's own", "documentation"),
        (sends(close_frame(1008, "no token")), "authentication", 17, "by its policy", "--token-file"),
        (sends(close_frame(1014, "backend_timeout")), "backend", 18, "SYN unanswered", "Allow the port of the backend"),
        (sends(close_frame(1011, "backend_reset")), "backend", 18, "backend broke", "log of the service"),
        (sends(close_frame(1000, "backend_closed")), "backend", 18, "closed it at once", "proxy_protocol"),
        (sends(b"\x88\x00"), "backend", 18, "without a code", "log of the server"),
        (sends(b"\x88\x01x"), "backend", 18, "RFC 6455", "antivirus"),
        (sends(b"\x82\x05hello" + close_frame(1011)), "backend", 18, "The server failed", "log of the server"),
        (fin, "backend", 18, "without a Close frame", "Probe the server without the proxy"),
        (rst, "backend", 18, "by a reset", "log of the server"),
        (wait_for_end, "ping", 19, "a ping is not answered", "Probe the server without the proxy"),
        (sends(b"\x83\x00"), "backend", 18, "RFC 6455", "antivirus"),
    ],
)
def test_after_the_101(then: Handler, step: str, code: int, cause: str, remedy: str) -> None:
    """A connection that ends soon, or whose pings are not answered."""
    with serving(switched(then)) as port:
        probe(f"ws://127.0.0.1:{port}/").expect(step, code, cause, remedy)


@pytest.mark.parametrize(
    ("handler", "code", "text"),
    [
        (greeter(b"220 mail.example.org ESMTP\r\n"), 0, "an SMTP or FTP server"),
        (wait_for_end, 0, "silent"),
        (lambda sock: None, 18, "closed by the service"),
    ],
)
def test_services_without_websocket(handler: Handler, code: int, text: str) -> None:
    """A backend greets, waits, or closes at once."""
    with serving(handler) as port:
        done = probe(f"tcp://127.0.0.1:{port}")
    assert (done.code, done.failed) == (code, "backend" if code else None)
    assert text in done.step("backend")["text"]
