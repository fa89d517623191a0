"""Tokens that are guessed or stolen: what it costs, who is banned, and whose session it stays."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.auth.signing import AUDIENCE, ISSUER, SECRET, signed
from tests.client_authority import ClientAuthority
from tests.serving import Served, backend, serving, written
from tests.sessions.client import OFFER, SessionClient, one_session, opened, session
from tests.sessions.test_access import REJECTED, refused, resume_of, stolen
from wsbridge.protocol import resume_server
from wsbridge.protocol.resume_client import ClientSession


async def guessed(served: Served, sent: bytes, *headers: str) -> tuple[int, str]:
    """Try a RESUME; give the code and the text of the answer."""
    with await served.upgraded("/", OFFER, *headers) as other:
        await other.send(sent)
        return await refused(other)


async def test_all_that_is_rejected_costs_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown, wrong token, expired, of another target: one text, and as many hashes and comparisons of tokens."""
    work: Counter[str] = Counter()

    def counted(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            work[name] += 1
            return function(*arguments)

        return call

    class Hashlib:
        sha256 = staticmethod(counted("hash", hashlib.sha256))

    class Hmac:
        compare_digest = staticmethod(counted("compare", hmac.compare_digest))

    async with one_session(resume={"ttl": "1s"}) as (_, served, client), session(served.port()) as gone:
        await opened(gone)
        await gone.leave(1000)
        await served.records.wait("session.closed")
        machine = client.machine
        monkeypatch.setattr(resume_server, "hashlib", Hashlib)
        monkeypatch.setattr(resume_server, "hmac", Hmac)
        for sent in (
            resume_of(machine.epoch),
            resume_of(machine.epoch, machine.session_id),
            resume_of(machine.epoch, gone.machine.session_id),
            resume_of(machine.epoch, gone.machine.session_id, gone.machine._token),
        ):
            work.clear()
            assert await guessed(served, sent) == REJECTED
            assert work == {"hash": 1, "compare": 2}
        object.__setattr__(served.server.services.sessions.sessions[machine.session_id], "claim", ("app", "", None, ""))
        work.clear()
        assert await guessed(served, resume_of(machine.epoch, machine.session_id, machine._token)) == REJECTED
        assert work == {"hash": 1, "compare": 2}


@pytest.mark.soak
async def test_ten_thousand_guesses() -> None:
    """The address is banned after `max_failures`; the session lives on, and its client is in."""
    limits = {"per_address": {"exempt": [], "max_failures": "10"}}
    async with one_session(limits=limits) as (_, served, client):
        sent, judged = resume_of(client.machine.epoch, client.machine.session_id), 0
        for _ in range(10_000):
            try:
                answer = await guessed(served, sent)
            except (EOFError, OSError, trio.BrokenResourceError):
                continue
            assert answer == REJECTED
            judged += 1
        assert judged == 10
        assert len(served.records.of("address.banned")) == 1
        await client.send(b"mine")
        await client.until(lambda: client.received == b"mine")


async def test_the_subject_of_a_token_owns_the_session(tmp_path: Path) -> None:
    """Another subject is refused although it knows all; with a token that has expired there is no 101."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    key = {"algorithm": "HS256", "secret": {"file": str(secret)}}
    auth = {"kind": "jwt", "keys": [key], "issuer": ISSUER, "audience": AUDIENCE}
    alice, bob, late = (
        f"Authorization: Bearer {signed(SECRET, **changes)}"
        for changes in ({}, {"sub": "bob"}, {"iat": 1_000_000, "exp": 1_000_300})
    )
    async with one_session(auth=auth, headers=[alice]) as (_, served, client):
        client.cut()
        other = stolen(served, client)
        await other.connect("/", bob)
        await other.until(lambda: other.ended)
        assert other.end == REJECTED
        with pytest.raises(AssertionError, match="401 Unauthorized"):
            await stolen(served, client).connect("/", late)
        await client.resume("/", alice)


async def test_the_certificate_of_a_client_owns_the_session(tmp_path: Path) -> None:
    """Another certificate of the same authority is refused although its client knows all."""
    authority = ClientAuthority(tmp_path)
    web = {"bind": "127.0.0.1:0", "tls": authority.listener_tls()}
    auth = {"kind": "certificate", "allow": "any"}
    async with backend() as back:
        route = {"backend": back.url, "auth": auth, "resume": {}}
        async with (
            serving(written(listeners={"web": web}, route=route)) as served,
            session(served.port(), tls=authority.context("CN=alice")) as client,
            session(served.port(), tls=authority.context("CN=bob")) as other,
        ):
            await opened(client)
            client.cut()
            copy_session(client.machine, other.machine)
            await other.connect()
            await other.until(lambda: other.ended)
            assert other.end == REJECTED
            await client.resume()


def copy_session(source: ClientSession, target: ClientSession) -> None:
    """Give a client all that another one knows."""
    for name in ("epoch", "session_id", "_token", "_window", "_peer_window"):
        setattr(target, name, getattr(source, name))


@pytest.mark.parametrize("source", ["proxy-protocol", "x-forwarded-for"])
async def test_a_client_may_come_back_from_another_address(source: str) -> None:
    """A session without an identity belongs to who has the token; who guesses is banned by the address of the guess."""
    web = {"bind": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1"], "client_address_from": source}
    limits = {"per_address": {"max_failures": "1", "exempt": []}, "detached_sessions_per_identity": "1"}

    def at(client: SessionClient, host: str) -> list[str]:
        client.introduction = f"PROXY TCP4 {host} 192.0.2.1 1000 80\r\n".encode() if source[0] == "p" else b""
        return [] if source[0] == "p" else [f"X-Forwarded-For: {host}"]

    async with backend() as back:
        text = written(listeners={"web": web}, route={"backend": back.url, "resume": {}}, limits=limits)
        async with (
            serving(text) as served,
            session(served.port()) as client,
            session(served.port()) as thief,
            session(served.port()) as second,
        ):
            await opened(client, "/", *at(client, "203.0.113.1"))
            client.cut()
            await client.resume("/", *at(client, "203.0.113.2"))
            copy_session(client.machine, thief.machine)
            thief.machine._token = bytes(32)
            await thief.connect("/", *at(thief, "203.0.113.9"))
            await thief.until(lambda: thief.ended)
            assert thief.end == REJECTED
            assert (await served.records.wait("address.banned"))["client_address"] == "203.0.113.9"
            client.cut()
            await client.resume("/", *at(client, "203.0.113.2"))
            await client.send(b"mine")
            await client.until(lambda: client.received == b"mine")
            # It counts for the address that opened it, wherever it is now.
            await opened(second, "/", *at(second, "203.0.113.1"))
            client.cut()
            second.cut()
            line = await served.records.wait("session.closed")
            assert (line["reason"], line["session"]) == ("session_displaced", client.machine.session_id.hex())
