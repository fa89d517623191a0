"""Secrets are planted wherever the bridge meets them, and nothing that it writes holds one in any form."""

from __future__ import annotations

import base64
import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest

from tests.authority import listener_tls
from tests.client import BINARY, CLOSE, frame, request
from tests.process.canaries import Canaries, Loud
from wsbridge.auth.passwords import hash_password

PROGRAM = '''
"""wsbridge with one route that breaks, with secrets in all that an exception can hold."""
import sys

from wsbridge.cli.main import main
from wsbridge.responders.base import FixedStatus


async def respond(self, request, context):
    secret = request.headers.get(b"authorization")
    try:
        raise KeyError(request, secret and b"local")
    except KeyError as error:
        raise RuntimeError(f"no answer to {request.target} {request.headers} {context.identity}") from error


FixedStatus.respond = respond
sys.argv[0] = "wsbridge"
main()
'''


class Echoing(http.server.BaseHTTPRequestHandler):
    """An upstream or a proxy that rejects each request, and repeats all of it."""

    def do_GET(self) -> None:
        """Refuse, with the request in the reason, in Location and in the body."""
        repeated = f"{self.path} {' '.join(self.headers.values())}"
        self.send_response(403, repeated)
        self.send_header("Location", f"http://x/{self.path}")
        self.end_headers()
        self.wfile.write(repeated.encode())

    do_CONNECT = do_GET  # noqa: N815  as http.server calls it

    def log_message(self, *_: object) -> None:
        """Say nothing of its own."""


@pytest.fixture
def echoing() -> Iterator[int]:
    """Give the port of a backend that repeats what it receives."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echoing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def basic(name: str, password: str) -> str:
    """Write the header of a name and a password."""
    return f"Authorization: Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


def carried(token: str) -> str:
    """Write the header of a token in a subprotocol."""
    coded = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    return f"Sec-WebSocket-Protocol: binary, wsbridge.token.{coded}"


def configuration(folder: Path, secret: Canaries, port: int) -> dict[str, Any]:
    """Write the files, and give the configuration that names them."""
    files = {
        "users": f"alice:{hash_password(secret('password').encode(), ln=12).text}\n",
        "tokens": f"bob sha256:{sha256(secret('token').encode()).hexdigest()}\n",
        "tickets": secret("ticket key") * 2,
        "signing": secret("key of signed tokens") * 2,
        "desks": f"{secret('token of a target', plain=True)}: 127.0.0.1:{port}\n",
        "header": f"Bearer {secret('header from a file')}",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    for name in ("users", "tokens"):
        secret.add(f"hash in {name}", files[name].rpartition("$")[2].rpartition(":")[2].strip())
    tls = listener_tls()
    key = Path(tls["certificates"][0]["key"]).read_text()
    for number, line in enumerate(key.splitlines()[1:-1]):
        secret.add(f"private key, line {number}", line)
    (folder / "program.py").write_text(PROGRAM)
    anybody = {"auth": "none", "allowed_origins": "any"}
    listener = {"bind": "127.0.0.1:0"}
    proxied = {
        "url": "ws://far.example/",
        "proxy": f"http://joe:{quote(secret('proxy password'), safe='')}@127.0.0.1:{port}",
        "proxy_headers": {"X-Proxy-Key": {"env": "CANARY"}, "User-Agent": secret("header for the proxy", plain=True)},
    }
    passing = {
        "url": f"ws://127.0.0.1:{port}/up",
        "pass_headers": ["Cookie", "X-Api-Key", "Authorization"],
        **dict.fromkeys(("pass_origin", "pass_path", "pass_query"), True),
    }
    upstream = {
        "url": f"ws://127.0.0.1:{port}/up?token={secret('backend URL', plain=True)}",
        "headers": {
            "Authorization": {"file": "header"},
            "X-Key": {"env": "CANARY"},
            "Cookie": f"sid={secret('header written as text', plain=True)}",
        },
    }
    bearer = {"kind": "bearer", "tokens": "tokens", "sources": ["authorization", "subprotocol", "cookie:sid"]}
    signed = {
        "kind": "jwt",
        "keys": [{"algorithm": "HS256", "secret": {"file": "signing"}}],
        "issuer": "any",
        "audience": "gw",
        "sources": ["authorization", "subprotocol", "cookie:sid"],
    }
    asks = {"kind": "forward", "headers": ["Authorization", "Cookie", "X-Api-Key"]}
    service = f"/allow?token={secret('URL of a service', plain=True)}"
    targets = {"networks": ["127.0.0.1/32"], "ports": [str(port)]}
    listens = f"tcp://127.0.0.1:{port}"
    return {
        "listeners": {
            "web": listener,
            "tls": {**listener, "tls": tls},
            "old": {**listener, "protocol": "tcp", "route": "upstream"},
        },
        "audit": {"file": "audit.jsonl"},
        "routes": {
            "basic": {"match": {"path": "/basic"}, "backend": listens, "auth": {"kind": "basic", "users": "users"}},
            "bearer": {"match": {"path": "/bearer"}, "backend": listens, "auth": bearer},
            "ticket": {
                "match": {"path": "/ticket"},
                "backend": listens,
                "auth": {"kind": "ticket", "key": {"file": "tickets"}},
            },
            "gives": {
                "match": {"path": "/gives"},
                "auth": {"kind": "basic", "users": "users"},
                "issue_tickets": {"route": "ticket", "key": {"file": "tickets"}},
            },
            "signed": {"match": {"path": "/signed"}, "backend": listens, "auth": signed},
            "asked": {
                "match": {"path": "/asked"},
                "backend": listens,
                "auth": {**asks, "url": f"http://127.0.0.1:{port}{service}"},
            },
            "unasked": {
                "match": {"path": "/unasked"},
                "backend": listens,
                "auth": {**asks, "url": f"http://127.0.0.1:1{service}"},
            },
            "query": {
                "match": {"path": "/query"},
                "backend": {"tokens": "desks", "token_from": "query.desk"},
                "allowed_targets": targets,
                **anybody,
            },
            "cookie": {
                "match": {"path": "/cookie"},
                "backend": {"tokens": "desks", "token_from": "cookie.desk"},
                "allowed_targets": targets,
                "auth": "none",
            },
            "segment": {
                "match": {"path": "/segment/{desk}"},
                "backend": {"tokens": "desks", "token_from": "desk"},
                "allowed_targets": targets,
                **anybody,
            },
            "upstream": {"match": {"path": "/upstream"}, "backend": upstream, **anybody},
            "passing": {"match": {"path": "/passing/*"}, "backend": passing, **anybody},
            "proxied": {"match": {"path": "/proxied"}, "backend": proxied, **anybody},
            "open": {"match": {"path": "/open"}, "backend": listens, **anybody},
            "refused": {"match": {"path": "/refused"}, "backend": "tcp://127.0.0.1:1", **anybody},
            "broken": {"match": {"path": "/broken"}, "respond": 204, "auth": {"kind": "basic", "users": "users"}},
        },
        "timeouts": {"lingering": "100ms"},
    }


def signed(secret: Canaries) -> Iterator[bytes]:
    """Ask with signed tokens, right and wrong."""
    for key in (secret("key of signed tokens") * 2, "w" * 40):
        for lasts in (60, -3600):
            claims = {"aud": "gw", "sub": "carol", "exp": int(time.time() + lasts), "x": secret("claim")}
            token = jwt.encode(claims, key, "HS256")
            for number, part in enumerate(token.split(".")[1:]):
                secret.add(f"part {number} of a token", part)
            yield request("/signed", f"Authorization: Bearer {token}")
            yield request("/signed", carried(token))
            yield request("/signed", f"Cookie: sid={token}", "Origin: http://localhost")


def requests(secret: Canaries) -> Iterator[bytes]:
    """Ask in all ways that carry secrets, right and wrong."""
    url = secret("URL", plain=True)
    right, wrong = basic("alice", secret("password")), basic("alice", secret("wrong password"))
    for line in (right, wrong, basic(secret("name that nobody has"), "x"), right + secret("broken base64")):
        yield request("/basic", line)
    for line in (f"Authorization: Bearer {secret('token')}", f"Authorization: Bearer {secret('wrong token')}"):
        yield request("/bearer", line)
        yield request("/bearer", line, line + "x")
    yield request("/bearer", carried(secret("token")))
    yield request("/bearer", carried(secret("token in a subprotocol")))
    yield request("/bearer", f"Sec-WebSocket-Protocol: wsbridge.token.{secret('protocol alone', plain=True)}")
    for origin in ("Origin: http://localhost", "Origin: https://evil.example", "X-Nothing: 1"):
        yield request("/bearer", f"Cookie: sid={secret('cookie', plain=True)}", origin)
    yield request(f"/ticket?ticket={secret('wrong ticket', plain=True)}")
    for path in ("/open", "/refused", "/upstream", "/passing/x", "/proxied", "/nowhere"):
        for name in ("token", "access_token", "password", "X-Amz-Signature", "ticket", "pass%77ord", "apikey"):
            yield request(f"{path}?a=1&{name}={url}", f"X-Api-Key: {secret('header')}", right)
        yield request(f"{path}?path=%2Fwebsockify%3Ftoken%3D{url}&x", f"Cookie: a={secret('cookie', plain=True)}")
        yield request(f"{path}?p=%252F%253Ftoken%253D{url}", "Origin: https://u:" + secret("Origin", plain=True) + "@x")
    yield from signed(secret)
    for path in ("/asked", "/unasked"):
        for line in (right, f"Authorization: Bearer {secret('token')}"):
            yield request(f"{path}?token={url}", line, f"Cookie: sid={secret('cookie', plain=True)}")
        yield request(path, f"X-Api-Key: {secret('header')}")
    for desk in (secret("token of a target", plain=True), secret("token of no target", plain=True)):
        yield request(f"/query?desk={desk}")
        yield request(f"/query?x=1&desk={desk}", "Origin: null")
        for origin in ("Origin: http://localhost", "Origin: https://evil.example", "X-Nothing: 1"):
            yield request("/cookie", f"Cookie: desk={desk}", origin)
        yield request("/cookie", f"Cookie: desk={desk}; desk={desk}", "Origin: http://localhost")
        yield request(f"/segment/{desk}?x=1")
        yield request(f"/segment/{desk}/x")
    yield request("/broken?x=1", right)
    yield f"GET /broken?token={url} HTTP/1.1\r\nHost: localhost\r\n{right}\r\n\r\n".encode()
    # heads that break a rule
    token = f"Authorization: Bearer {secret('token of a broken head')}"
    yield f"GET /open?token={url} HTTP/1.0\r\n{token}\r\n\r\n".encode()
    yield f"GET /x/../open?token={url} HTTP/1.1\r\nHost: localhost\r\n{token}\r\n\r\n".encode()
    yield f"GET http://u:{url}@localhost/open?token={url} HTTP/1.1\r\nHost: localhost\r\n{token}\r\n\r\n".encode()
    yield f"GET /open HTTP/1.1\r\nHost: u:{url}@localhost\r\n{token}\r\n\r\n".encode()
    yield f"GET /open HTTP/1.1\r\nHost: localhost\r\n{token.replace(':', '')}\r\n\r\n".encode()
    yield f"GET /open HTTP/1.1\r\nHost: localhost\r\n{token}\x00\r\n\r\n".encode()
    yield f"GET /open HTTP/1.1\r\nHost: localhost\r\n{token}\r\n {token}\r\n\r\n".encode()
    yield f"GET /open HTTP/1.1\r\nHost: localhost\r\n{token}{'x' * 9000}\r\n\r\n".encode()
    yield f"{token}\r\n\r\n".encode()
    yield request("/open", f"Sec-WebSocket-Key: {url}")
    yield request("/open", f"Sec-WebSocket-Extensions: {secret('extension', plain=True)}", "Content-Length: 9")


@pytest.mark.parametrize("form", ["json", "console", "journal"])
def test_no_secret_comes_out(tmp_path: Path, form: str, echoing: int) -> None:
    """Neither the log, at level debug, nor the audit nor any other output holds a secret in any form."""
    secret = Canaries()
    (tmp_path / "wsbridge.yaml").write_text(json.dumps(configuration(tmp_path, secret, echoing)))
    environ = {"CANARY": secret("header from the environment"), "OTHER_SECRET": secret("environment")}
    goodbye = b"\x0f\xa0bye?token=" + secret("close reason").encode()
    ended = frame(BINARY, secret("payload").encode()) + frame(CLOSE, goodbye)
    with Loud(tmp_path, form, environ) as daemon:
        asked = 0
        for data in requests(secret):
            daemon.ask("web", data, then=ended)
            asked += 1
        daemon.ask("tls", request("/open", f"Authorization: Bearer {secret('HTTP on a TLS port')}"))
        daemon.ask("old", secret("raw payload").encode())
        head = f"POST /gives HTTP/1.1\r\nHost: localhost\r\n{basic('alice', secret('password'))}\r\n\r\n"
        given = daemon.ask("web", head.encode() + b"GET / HTTP/1.0\r\n\r\n")
        ticket = json.loads(given.partition(b"\r\n\r\n")[2].partition(b"}")[0] + b"}")["ticket"]
        secret.add("ticket", ticket)
        secret.add("signature of the ticket", ticket.rpartition(".")[2])
        for _ in range(2):
            daemon.ask("web", request(f"/ticket?ticket={ticket}"), then=ended)
        assert daemon.end() == 0
    output, audit = (tmp_path / "output").read_bytes(), (tmp_path / "audit.jsonl").read_bytes()
    seen = output.decode(errors="replace")
    for event in ("connection.closed", "connection.rejected", "internal_error", "RuntimeError", "no answer to /broken"):
        assert event in seen
    for reason in (
        "unauthenticated",
        "backend_refused",
        "bad_request",
        "origin_not_allowed",
        "no_route",
        "request_too_large",
        "client_closed",
    ):
        assert reason in seen
        assert reason in audit.decode()
    assert audit.count(b'"access.granted"') > 10
    assert seen.count("***") > asked / 2
    assert not secret.found(output)
    assert not secret.found(audit)


@pytest.mark.parametrize("command", ["check", "run"])
def test_no_secret_comes_out_of_mistakes(tmp_path: Path, command: str, echoing: int) -> None:
    """Error messages for a wrong configuration show lines of it, but none of its secrets."""
    secret = Canaries()
    config = configuration(tmp_path, secret, echoing)
    lines = [json.dumps(config["routes"][name]) for name in config["routes"]]
    header = secret("header with a mistake")
    password = quote(secret("proxy password"), safe="")
    text = (
        json.dumps({key: value for key, value in config.items() if key != "routes"})[:-1]
        + ',\n"routes": {\n'
        + ",\n".join(f'"{name}": {line}' for name, line in zip(config["routes"], lines, strict=True))
        + ',\n"one": {"match": "any", "auth": "none", "backend": {"url": "ws://far.example",'
        + f' "headers": {{"Authorization": "Bearer {header}\\u00fc", "Cookie": "{header}"}}}}}},'
        + f'\n"two": {{"backend": {{"url": "ws://far.example", "proxy": "https://joe:{password}@x"}}}},'
        + f'\n"three": {{"backend": "tcp://joe:{password}@x:1"}}\n}}}}'
    )
    (tmp_path / "wsbridge.yaml").write_text(text)
    (tmp_path / "users").write_text(f"alice:{secret('password in clear')}\n")
    (tmp_path / "tokens").write_text(f"bob {secret('token in clear')}\n")
    done = subprocess.run(
        [sys.executable, "-m", "wsbridge", command, "-c", "wsbridge.yaml"],
        cwd=tmp_path,
        env={"CANARY": secret("environment"), "PATH": ""},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 78
    output = done.stdout + done.stderr
    assert output.count(b"wsbridge.yaml") > 5
    assert not secret.found(output)


@pytest.mark.parametrize(
    "leak",
    [
        lambda secret: secret.encode(),
        lambda secret: b"x" + base64.b64encode(b"user:" + secret.encode()),
        lambda secret: base64.urlsafe_b64encode(b"ab" + secret.encode() + b"cd"),
        lambda secret: quote(secret, safe="").encode(),
        lambda secret: quote(secret, safe="").lower().encode(),
        lambda secret: secret.encode().hex().encode(),
    ],
)
def test_leaks_would_be_found(leak: Any) -> None:
    """The search itself finds a secret in each of the forms, and none where there is none."""
    secret = Canaries()
    text = secret("somewhere")
    assert secret.found(b"before " + leak(text) + b" behind")
    assert not secret.found(b"before behind")
