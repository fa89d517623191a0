"""How many files a reader goes through: modules entered while one connection is served, by tracing it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import jwt

import wsbridge
from tests.auth.signing import AUDIENCE, ISSUER, SECRET, claims
from tests.client import BINARY, frame, request
from tests.serving import Served, backend, serving, written
from wsbridge.log.logger import log

RELAYED_BY = {("relay/engine.py", "start"), ("native/bridge.py", "begin")}
"""Where an engine begins to relay."""
PACKAGE = str(Path(wsbridge.__file__).parent) + "/"


class Trace:
    """The files of the package in which a function was entered."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.to_relay: set[str] = set()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Note one call."""
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(PACKAGE):
            self.files.add(name.removeprefix(PACKAGE))
            if not self.to_relay and (name.removeprefix(PACKAGE), frame.f_code.co_name) in RELAYED_BY:
                self.to_relay = set(self.files)


@contextmanager
def tracing() -> Iterator[Trace]:
    """Trace this thread."""
    trace = Trace()
    sys.setprofile(trace)
    try:
        yield trace
    finally:
        sys.setprofile(None)


async def serve_one(served: Served, head: bytes) -> Trace:
    """Carry one connection from accept to its log line, at the default log level, with caches filled."""
    log.set_level("info")
    for count in (1, 2):
        with tracing() as trace:
            with await served.connect() as client:
                await client.send(head)
                assert (await client.head()).startswith("HTTP/1.1 101")
                await client.send(frame(BINARY, b"hello"))
                assert await client.payload(5)
                await client.close()
            await served.records.wait("connection.closed", count)
    return trace


def check(trace: Trace, to_relay: int, files: int) -> None:
    """Hold the numbers of files to the relay, and to the log line; the native engine has two of its own."""
    own = {"native/engine.py", "native/bridge.py"}
    assert trace.to_relay
    assert len(trace.to_relay - own) <= to_relay, " ".join(sorted(trace.to_relay))
    assert len(trace.files - own) <= files, " ".join(sorted(trace.files))


async def test_a_plain_connection_leads_through_few_files() -> None:
    """From accept to the relay, and to the log line."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        trace = await serve_one(served, request())
    check(trace, 16, 23)


async def test_a_connection_with_everything_leads_through_few_files(tmp_path: Path) -> None:
    """With a token, a forwarded address, limits, and the PROXY protocol to the backend."""
    (tmp_path / "key").write_text(SECRET)
    (tmp_path / "key").chmod(0o600)
    auth = {
        "kind": "jwt",
        "keys": [{"algorithm": "HS256", "secret": {"file": str(tmp_path / "key")}}],
        "issuer": ISSUER,
        "audience": AUDIENCE,
    }
    web = {"bind": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1"], "client_address_from": "x-forwarded-for"}
    async with backend() as back:
        route = {
            "match": "any",
            "backend": {"url": back.url, "proxy_protocol": "v2"},
            "auth": auth,
            "limits": {"connections": "5", "connections_per_identity": "5"},
        }
        async with serving(written(listeners={"web": web}, routes={"app": route}), folder=tmp_path) as served:
            token = f"Authorization: Bearer {jwt.encode(claims(), SECRET, 'HS256')}"
            trace = await serve_one(served, request("/", token, "X-Forwarded-For: 203.0.113.7"))
    check(trace, 23, 30)
