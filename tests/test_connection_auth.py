"""Authentication of a connection: what the method of a route answers, and what follows from it."""

from __future__ import annotations

import time

import pytest
import trio

from tests.auth.methods import Saying, caller
from tests.client import request as upgrade_request
from tests.rejections import async_outcome, rejection_body, without_id
from tests.serving import backend, serving, written
from wsbridge.admission import authenticate as authenticate_
from wsbridge.admission import identity_deadline
from wsbridge.auth.identity import ANONYMOUS, Identity, auth_unavailable, unauthenticated
from wsbridge.reasons import Reason, Rejected, Termination

UPGRADE = ((b"upgrade", b"websocket"), (b"connection", b"Upgrade"))
ORIGIN = (b"origin", b"https://gw.example.org")


async def authenticate(auth, caller):
    """Return the identity, or how the connection ends."""
    found = await async_outcome(authenticate_(auth, caller))
    return found.termination() if isinstance(found, Rejected) else found


async def test_who_is_known_comes_in() -> None:
    """The identity is what the way gave."""
    alice = Identity("alice", "basic")
    assert await authenticate(Saying(alice), caller(*UPGRADE)) is alice


@pytest.mark.parametrize(
    ("denied", "status", "initiator"),
    [
        (unauthenticated("the token is unknown", failed_login=True), 401, "client"),
        (Rejected(Reason.FORBIDDEN, "not in the networks"), 403, "client"),
        (auth_unavailable("nobody answers"), 503, "wsbridge"),
    ],
)
async def test_a_denial_is_an_ending(denied: Rejected, status: int, initiator: str) -> None:
    """Its reason has the status, its sentence is for the log."""
    end = await authenticate(Saying(denied), caller(*UPGRADE))
    assert isinstance(end, Termination)
    assert (end.reason, end.http_status, end.initiator, end.detail) == (denied.reason, status, initiator, denied.detail)


async def test_a_challenge_is_a_header() -> None:
    """The 401 has the challenge by which browsers and programs can authenticate."""
    end = await authenticate(
        Saying(unauthenticated("no credentials", challenges=("Bearer", "Basic"))), caller(*UPGRADE)
    )
    assert isinstance(end, Termination)
    assert end.headers == (("WWW-Authenticate", "Bearer"), ("WWW-Authenticate", "Basic"))


async def test_a_cookie_needs_an_origin() -> None:
    """A request with a cookie but without Origin is rejected, since the page that sent it is unknown."""
    by_cookie = Saying(Identity("alice", "jwt", by_cookie=True))
    end = await authenticate(by_cookie, caller(*UPGRADE))
    assert isinstance(end, Termination)
    assert (end.reason, end.http_status) == (Reason.ORIGIN_NOT_ALLOWED, 403)
    post = await authenticate(by_cookie, caller(method="POST"))
    assert isinstance(post, Termination)
    assert await authenticate(by_cookie, caller(*UPGRADE, ORIGIN)) == by_cookie.answer
    assert await authenticate(by_cookie, caller(ORIGIN, method="POST")) == by_cookie.answer


async def test_a_page_may_be_asked_for_with_a_cookie_alone() -> None:
    """Browsers send no Origin when they load a page or its parts."""
    by_cookie = Saying(Identity("alice", "jwt", by_cookie=True))
    assert await authenticate(by_cookie, caller()) == by_cookie.answer


async def test_an_end_by_the_wall_clock_becomes_one_by_the_loops() -> None:
    """Setting the clock of the host later neither ends nor prolongs a connection."""
    assert identity_deadline(ANONYMOUS) is None
    left = identity_deadline(Identity("alice", expires=time.time() + 60))
    assert left is not None
    assert left - trio.current_time() == pytest.approx(60, abs=1)


NETWORK = {"kind": "network", "allow": ["192.0.2.0/24"]}


async def test_who_is_denied_never_reaches_the_backend() -> None:
    """The backend is not dialled, the answer says nothing but the reason, and the log has the sentence."""
    async with backend() as back, serving(written(route={"backend": back.url, "auth": NETWORK})) as served:
        with await served.connect() as client:
            await client.send(upgrade_request())
            answer = (await client.everything()).decode()
        line = await served.records.wait("connection.rejected")
        assert answer.startswith("HTTP/1.1 403 ")
        assert without_id(answer).endswith("\r\n\r\n" + rejection_body("forbidden"))
        assert (line["reason"], line["detail"]) == ("forbidden", "127.0.0.1 is in no network of allow")
        assert back.dials == 0


async def test_a_raw_client_is_asked_too() -> None:
    """Where plain TCP is spoken, a denial is a reset before anything is dialled."""
    listeners = {"old": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "app"}}
    async with backend() as back:
        routes = {"app": {"backend": back.url, "auth": NETWORK}}
        async with serving(written(listeners=listeners, routes=routes)) as served:
            with await served.connect("old") as client, pytest.raises(trio.BrokenResourceError):
                await client.take(1)
            assert (await served.records.wait("connection.rejected"))["reason"] == "forbidden"
            assert back.dials == 0


async def test_a_page_is_asked_for_as_well() -> None:
    """Files and fixed answers are behind the same door."""
    async with serving(written(route={"respond": "204", "auth": NETWORK})) as served:
        with await served.connect() as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await client.everything()).startswith(b"HTTP/1.1 403 ")
