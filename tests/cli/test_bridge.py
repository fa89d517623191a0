"""`bridge` with listeners, as processes."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import socket
import ssl
import stat
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from tests.cli.backends import echo, serving
from tests.cli.program import finished, started
from tests.clients.program import PATIENCE, Program, program, run


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a plain echo server."""
    with serving(echo) as number:
        yield number


def printed_url(bridge: Program) -> str:
    """Wait until a bridge prints its address; return it as the URL to connect to."""
    return bridge.line(r"^wsbridge: (\S+) -> ")[1]


def address(url: str) -> tuple[str, int]:
    """Give host and port of a URL."""
    host, _, port = url.partition("://")[2].rstrip("/").rpartition(":")
    return host, int(port)


@contextlib.contextmanager
def serving_nobody(reserved: socket.socket) -> Iterator[str]:
    """The URL of a port on which nobody listens, and that nobody else gets."""
    reserved.bind(("127.0.0.1", 0))
    yield f"tcp://127.0.0.1:{reserved.getsockname()[1]}"


def roundtrip(sock: socket.socket, data: bytes) -> bytes:
    """Send bytes, and receive as many."""
    sock.settimeout(PATIENCE)
    sock.sendall(data)
    got = bytearray()
    while len(got) < len(data):
        piece = sock.recv(65536)
        assert piece
        got += piece
    return bytes(got)


def test_websocket_to_tcp(port: int) -> None:
    """A WebSocket listener on port 0 prints its address, relays from any path, and logs in the console format."""
    with started("bridge", "ws://127.0.0.1:0/", f"tcp://127.0.0.1:{port}") as bridge:
        with connect(printed_url(bridge) + "any/path", subprotocols=[Subprotocol("binary")]) as client:
            client.send(b"hello")
            assert client.recv() == b"hello"
            assert client.subprotocol == "binary"
        bridge.line(r"info\W+connection\.closed .*reason=client_closed")
        bridge.process.send_signal(signal.SIGINT)
        assert bridge.process.wait(PATIENCE) == 0
    assert not [line for line in bridge.lines if line.startswith("{") or "Traceback" in line]


def test_tcp_to_websocket_and_back(port: int, tmp_path: Path) -> None:
    """Two bridges face to face are a tunnel; the near one may listen on TCP or on a Unix path."""
    path = tmp_path / "near.sock"
    with started("bridge", "ws://127.0.0.1:0/x", f"tcp://127.0.0.1:{port}") as far:
        target = printed_url(far)
        assert target.endswith("/x")
        with (
            started("bridge", "tcp://127.0.0.1:0", target) as tcp,
            started("bridge", f"unix:{path}", target) as unix,
        ):
            with socket.create_connection(address(printed_url(tcp)), PATIENCE) as sock:
                assert roundtrip(sock, b"by tcp" * 10_000) == b"by tcp" * 10_000
            assert printed_url(unix) == f"unix:{path}"
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                assert roundtrip(sock, b"by unix") == b"by unix"


def test_once(port: int) -> None:
    """With --once the bridge stops listening at the first connection and ends with it, with exit code 0."""
    with started("bridge", "tcp://127.0.0.1:0", f"tcp://127.0.0.1:{port}", "--once") as bridge:
        place = address(printed_url(bridge))
        with socket.create_connection(place, PATIENCE) as sock:
            assert roundtrip(sock, b"one") == b"one"
            bridge.line(r"listener\.close")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(place, PATIENCE).close()
            assert roundtrip(sock, b"still") == b"still"
        assert bridge.process.wait(PATIENCE) == 0


def test_once_with_a_target_that_refuses() -> None:
    """With --once the connection whose target refuses is the one connection: exit code 1, and no more listening."""
    with (
        socket.socket() as reserved,
        serving_nobody(reserved) as place,
        started("bridge", "tcp://127.0.0.1:0", place, "--once") as bridge,
    ):
        with (  # the reset may come while connecting
            contextlib.suppress(ConnectionError),
            socket.create_connection(address(printed_url(bridge)), PATIENCE) as sock,
        ):
            assert sock.recv(1) == b""
        assert bridge.process.wait(PATIENCE) == 1


@pytest.mark.parametrize(("broken", "code"), [(True, 1), (False, 0)])
def test_once_has_the_exit_code_of_its_connection(port: int, broken: bool, code: int) -> None:
    """A client that is lost makes 1, one that closes cleanly 0."""
    with started("bridge", "tcp://127.0.0.1:0", f"tcp://127.0.0.1:{port}", "--once") as bridge:
        with socket.create_connection(address(printed_url(bridge)), PATIENCE) as sock:
            assert roundtrip(sock, b"one") == b"one"
            if broken:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert bridge.process.wait(PATIENCE) == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_once_ended_by_a_signal(port: int, number: signal.Signals, code: int) -> None:
    """A signal ends the one connection too, and the exit code is 128 plus its number."""
    with (
        started("bridge", "tcp://127.0.0.1:0", f"tcp://127.0.0.1:{port}", "--once") as bridge,
        socket.create_connection(address(printed_url(bridge)), PATIENCE) as sock,
    ):
        assert roundtrip(sock, b"one") == b"one"
        bridge.process.send_signal(number)
        assert bridge.process.wait(PATIENCE) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_listening_bridge_cleanly(port: int, number: signal.Signals) -> None:
    """A bridge that listens until it is stopped exits with 0 then."""
    with started("bridge", "tcp://127.0.0.1:0", f"tcp://127.0.0.1:{port}") as bridge:
        printed_url(bridge)
        bridge.process.send_signal(number)
        assert bridge.process.wait(PATIENCE) == 0


def test_self_signed(port: int) -> None:
    """The fingerprint that is reported is that of the certificate served, and its files are gone by then."""
    with started("bridge", "wss://127.0.0.1:0/", f"tcp://127.0.0.1:{port}", "--self-signed") as bridge:
        url = printed_url(bridge)
        fingerprint = bridge.line(r"SHA-256 (\S+)")[1]
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # see `threaded_client_context`
        with connect(url, ssl=context) as client:
            client.send(b"secret")
            assert client.recv() == b"secret"
            tls = client.socket
            assert isinstance(tls, ssl.SSLSocket)
            der = tls.getpeercert(binary_form=True)
        assert der is not None
        assert hashlib.sha256(der).hexdigest() == fingerprint.replace(":", "").lower()
        pinned = finished("bridge", "-", url, "--pin-sha256", fingerprint, "--hold", "1s", input=b"pinned")
        other = finished("bridge", "-", url, "--pin-sha256", "00" * 32, input=b"never")
    assert (pinned.returncode, pinned.stdout, pinned.stderr) == (0, b"pinned", b"")
    assert (other.returncode, other.stdout) == (1, b"")


def test_tls_both_ways(port: int, tmp_path: Path) -> None:
    """A near bridge trusts a far one's certificate by --ca; without that the connection is refused."""
    openssl = program("openssl")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    run(
        *[openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "30",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    )  # fmt: skip
    with started(
        "bridge", "wss://127.0.0.1:0/", f"tcp://127.0.0.1:{port}", "--cert", str(cert), "--key", str(key),
        "--on-client-close", "deliver",
    ) as far:  # fmt: skip
        url = printed_url(far)
        trusting = finished("bridge", "-", url, "--ca", str(cert), input=b"through TLS")
        careless = finished("bridge", "-", url, "--insecure", input=b"unseen")
        strict = finished("bridge", "-", url, input=b"never")

    assert (trusting.returncode, trusting.stdout, trusting.stderr) == (0, b"through TLS", b"")
    assert (careless.returncode, careless.stdout) == (0, b"unseen")
    assert careless.stderr.startswith(b"wsbridge: warning: --insecure: ")
    assert strict.returncode == 1
    assert strict.stdout == b""
    assert strict.stderr.startswith(b"wsbridge: backend_tls: ")


def test_an_address_that_is_taken() -> None:
    """A port in use is one sentence and exit code 69."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = finished("bridge", f"ws://127.0.0.1:{port}/", "tcp://127.0.0.1:1")

    assert done.returncode == 69
    assert done.stderr.count(b"\n") == 1
    assert f"cannot listen on 127.0.0.1:{port}".encode() in done.stderr


def test_origins(port: int) -> None:
    """A page of another host may connect only if --allowed-origins names it."""
    with started(
        "bridge", "ws://127.0.0.1:0/", f"tcp://127.0.0.1:{port}", "--allowed-origins", "https://a.example"
    ) as bridge:
        url = printed_url(bridge)
        with connect(url, origin=Origin("https://a.example")) as client:
            client.send(b"x")
            assert client.recv() == b"x"
        with pytest.raises(Exception, match="403"), connect(url, origin=Origin("https://b.example")):
            pass


def test_files_beside_the_websocket(port: int, tmp_path: Path) -> None:
    """With --files plain requests get the files of a directory, and WebSockets of any path reach the target."""
    (tmp_path / "index.html").write_text("<p>hello")
    with started("bridge", "--files", str(tmp_path), "127.0.0.1:0", f"127.0.0.1:{port}") as bridge:
        url = printed_url(bridge)
        page = bridge.line(r"(http://\S+) serves")[1]
        with urllib.request.urlopen(page, timeout=PATIENCE) as answer:
            assert answer.read() == b"<p>hello"
        for path in ("", "websockify"):
            with connect(url + path, subprotocols=[Subprotocol("binary")]) as client:
                client.send(b"bytes")
                assert client.recv() == b"bytes"


def test_the_page_of_novnc(port: int, tmp_path: Path) -> None:
    """A directory of noVNC has no index.html: / leads to its page, and the files are beside it."""
    (tmp_path / "vnc.html").write_text("<p>vnc")
    with started("bridge", "--files", str(tmp_path), "127.0.0.1:0", f"127.0.0.1:{port}") as bridge:
        page = bridge.line(r"(http://\S+) serves")[1]
        with urllib.request.urlopen(page, timeout=PATIENCE) as answer:
            assert (answer.url, answer.read()) == (f"{page}vnc.html", b"<p>vnc")


def test_host_name(port: int) -> None:
    """A page that reaches the bridge by a name (a port forward) is accepted only with --host-name."""
    for options, status in (([], 403), (["--host-name", "foo-8080.app.example"], 101)):
        with (
            started("bridge", "ws://127.0.0.1:0/", f"tcp://127.0.0.1:{port}", *options) as bridge,
            socket.create_connection(address(printed_url(bridge)), PATIENCE) as sock,
        ):
            sock.sendall(
                b"GET / HTTP/1.1\r\nHost: foo-8080.app.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            assert sock.recv(65536).split()[1] == str(status).encode()


def test_a_unix_listener_is_private(port: int, tmp_path: Path) -> None:
    """The socket of a bridge, which has no authentication, is for its own user."""
    path = tmp_path / "x.sock"
    with started("bridge", f"unix:{path}", f"tcp://127.0.0.1:{port}") as bridge:
        printed_url(bridge)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_address_that_cannot_be_used(tmp_path: Path) -> None:
    """What only another configuration can mend is exit code 78, after which systemd does not retry."""
    done = finished("bridge", f"unix:{tmp_path}/gone/x.sock", "tcp://127.0.0.1:1")

    assert (done.returncode, done.stderr.count(b"\n")) == (78, 1)


def test_headers_for_the_target(tmp_path: Path) -> None:
    """--host and --origin are sent to a WebSocket target."""
    requests: list[bytes] = []

    def refuse(sock: socket.socket) -> None:
        requests.append(sock.recv(65536))
        sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with serving(refuse) as port:
        finished("bridge", "-", f"ws://127.0.0.1:{port}/", "--host", "inner.example", "--origin", "https://a.example")

    assert b"\r\nHost: inner.example\r\n" in requests[0]
    assert b"\r\nOrigin: https://a.example\r\n" in requests[0]


def test_headers_for_the_proxy() -> None:
    """--proxy-header is sent with CONNECT, not to the target; a proxy that repeats it has it hidden on the terminal."""
    requests: list[bytes] = []

    def refuse(sock: socket.socket) -> None:
        requests.append(sock.recv(65536))
        sock.sendall(b"HTTP/1.1 407 No\r\n\r\nyou sent Bearer hunter2hunter2")

    with serving(refuse) as port:
        options = (
            "--proxy-header",
            "User-Agent: curl/8",
            "--proxy-header",
            "Proxy-Authorization: Bearer hunter2hunter2",
        )
        done = finished("bridge", "-", "ws://gw.example/", "--proxy", f"http://127.0.0.1:{port}", *options)

    assert requests[0].startswith(b"CONNECT gw.example:80 HTTP/1.1\r\n")
    assert b"\r\nUser-Agent: curl/8\r\nProxy-Authorization: Bearer hunter2hunter2\r\n\r\n" in requests[0]
    assert done.returncode == 1
    assert b"407" in done.stderr and b"hunter2" not in done.stderr
