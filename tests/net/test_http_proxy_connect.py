"""HTTP CONNECT: the request, the answer, what is left over, refusals."""

import socket

import pytest
import trio

from tests.rejections import async_outcome
from wsbridge.config.secrets import Secret
from wsbridge.config.urls import read_proxy_url
from wsbridge.net.http_proxy import ProxyConnector
from wsbridge.net.transport import SocketTransport
from wsbridge.reasons import Reason

OK = b"HTTP/1.1 200 Connection established\r\n\r\n"


async def ask(*answers, proxy="http://proxy:3128", host="gw.example.org", end=False, headers=None):
    """Run one CONNECT against a scripted proxy; gives the outcome, the request, and what is left in the transport."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        wire = SocketTransport(ours)
        for answer in answers:
            theirs.send(answer)
        if end:
            theirs.shutdown(socket.SHUT_WR)
        with trio.fail_after(9):
            connector = ProxyConnector(read_proxy_url(proxy), headers or {}, 65536)
            outcome = await async_outcome(connector.connect(wire, host, 443))
        return outcome, theirs.recv(65536), wire.read()


async def test_tunnel():
    """CONNECT with Host; any 2xx opens it."""
    outcome, request, rest = await ask(OK)

    assert outcome is None
    assert request == b"CONNECT gw.example.org:443 HTTP/1.1\r\nHost: gw.example.org:443\r\n\r\n"
    assert rest == b""


async def test_ipv6_target_stands_in_brackets():
    """As a request target has it."""
    _, request, _ = await ask(OK, host="2001:db8::1")
    assert request.startswith(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n")


async def test_basic_authentication():
    """User and password of the URL, percent-encoding undone."""
    _, request, _ = await ask(OK, proxy="http://user:p%40ss@proxy:3128")
    assert b"Proxy-Authorization: Basic dXNlcjpwQHNz\r\n" in request


async def test_a_proxy_that_repeats_our_password_does_not_have_it_logged():
    """Neither as written in the URL, nor decoded, nor in base64; a very short one would hide too much."""
    response = b"HTTP/1.1 407 not p%40ss, p@ss or dXNlcjpwQHNz\r\n\r\n"
    outcome, _, _ = await ask(response, proxy="http://user:p%40ss@proxy:3128")
    assert outcome.detail.startswith('the proxy http://***@proxy:3128 answered 407 "not ***, *** or ***"')
    outcome, _, _ = await ask(b"HTTP/1.1 407 no way in\r\n\r\n", proxy="http://user:no@proxy:3128")
    assert '"no way in"' in outcome.detail


async def test_a_secret_at_the_edge_of_what_is_quoted_is_hidden_whole():
    """Only the start of a long reason or body is quoted: no part of a secret that is cut or escaped there is logged."""
    secret = 'k"\\' + "s3cr3t" * 8
    body = b"x" * 180 + secret.encode()
    answer = b"HTTP/1.1 403 " + b"y" * 70 + secret.encode() + b"\r\n\r\n" + body
    outcome, _, _ = await ask(answer, headers={"Proxy-Authorization": Secret(f"Bearer {secret}")}, end=True)
    assert "s3cr3t" not in outcome.detail
    outcome, _, _ = await ask(answer, proxy=f"http://user:{secret}@proxy:3128", end=True)
    assert "s3cr3t" not in outcome.detail


async def test_further_headers():
    """In the CONNECT request, after Host; secrets are revealed there."""
    headers = {"User-Agent": "curl/8", "Proxy-Authorization": Secret("Bearer abc")}
    _, request, _ = await ask(OK, headers=headers)
    lines = b"Host: gw.example.org:443\r\nUser-Agent: curl/8\r\nProxy-Authorization: Bearer abc\r\n\r\n"
    assert request.endswith(lines)


async def test_bytes_behind_the_answer_are_kept():
    """They belong to what is spoken through the tunnel."""
    outcome, _, rest = await ask(OK + b"early")
    assert (outcome, rest) == (None, b"early")


async def test_answer_in_pieces():
    """However it arrives."""
    outcome, _, rest = await ask(OK[:9], OK[9:-1], OK[-1:] + b"x")
    assert (outcome, rest) == (None, b"x")


@pytest.mark.parametrize(
    ("status", "final"), [("407 Proxy Authentication Required", True), ("403 Forbidden", True), ("503 Busy", False)]
)
async def test_refusals(status, final):
    """The status is reported, the password is not; what may pass is worth another attempt."""
    answer = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
    outcome, _, _ = await ask(answer, proxy="http://user:hunter2@proxy:3128")

    assert outcome.reason is Reason.BACKEND_REJECTED
    assert status.split()[0] in outcome.detail
    assert "hunter2" not in outcome.detail
    assert outcome.permanent is final


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "closed the connection before it answered"),
        (b"HTTP/1.1 200", "closed the connection before it answered"),
        (b"SSH-2.0-x\r\n", "no valid response"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, "no valid response"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 6, "no valid response"),
    ],
)
async def test_broken_answers(answer, text):
    """An end, another protocol, heads past the limits."""
    outcome, _, _ = await ask(answer, end=True)
    assert text in outcome.detail


async def outcome_after_reset(response=b""):
    """Connect through a proxy that sends this and resets the connection, before it has the request."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    accepted.send(response)
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    accepted.close()
    client.setblocking(False)
    with client:
        connector = ProxyConnector(read_proxy_url("http://proxy:3128"), {}, 65536)
        return await async_outcome(connector.connect(SocketTransport(client), "gw", 443))


async def test_reset():
    """A proxy that resets is a failure like any other."""
    assert "broke the connection" in (await outcome_after_reset()).detail


async def test_a_refusal_that_came_before_the_request_is_read():
    """A proxy that takes no more connections answers, and resets them at once."""
    outcome = await outcome_after_reset(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")
    assert (outcome.reason, outcome.retry_after) == (Reason.BACKEND_REJECTED, 7.0)


@pytest.mark.parametrize(
    "header", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Content-Length: 5\r\nTransfer-Encoding: chunked"]
)
async def test_a_tunnel_has_no_body(header):
    """Whatever a 200 says of one: what follows belongs to the tunnel (RFC 9110 section 9.3.6)."""
    outcome, _, rest = await ask(b"HTTP/1.1 200 OK\r\n" + header + b"\r\n\r\nearly")
    assert (outcome, rest) == (None, b"early")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n",
            "and wants",
        ),
        (b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/login\r\nContent-Length: 0\r\n\r\n", "portal.example"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 20\r\n\r\nport 443 not allowed", 'body "port 443 not allowed"'),
    ],
)
async def test_a_refusal_is_described(answer, text):
    """What a proxy wants, where it points to, and its own words."""
    outcome, _, _ = await ask(answer)
    assert text in outcome.detail
    assert ("NTLM" in outcome.detail) is (b"NTLM" in answer)


@pytest.mark.parametrize(("status", "seconds"), [(429, 7), (503, 7), (502, None), (407, None)])
async def test_the_time_that_a_proxy_asks_for_is_passed_to_the_retries(status, seconds):
    """Retry-After counts where the proxy is overloaded, and nowhere else."""
    outcome, _, _ = await ask(f"HTTP/1.1 {status} No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n".encode())
    assert outcome.retry_after == seconds
