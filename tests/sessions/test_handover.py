"""Sessions go from one server to the next, both in this process: each is in one of them at any time, or ends.

With real processes: process/test_session_takeover and process/test_session_restart.
"""

from __future__ import annotations

import contextlib

import trio

from tests.admin.takeovers import asking, running, taking_over
from tests.serving import backend
from tests.sessions.client import clients, opened, route_of, session
from wsbridge.admin import takeover
from wsbridge.sessions import handover
from wsbridge.sessions.saved_state import SAVED_STATE_VERSION, SavedList

READY = b'{"kept": [true, true], "session_state": %d}\n' % SAVED_STATE_VERSION


def text_of(back, folder, *, resume=None, **rest):
    """Write a configuration with one route that has resumable sessions."""
    return route_of(
        back, resume={"ttl": "20s"} if resume is None else resume, admin={"bind": f"unix:{folder}/a"}, **rest
    )


@contextlib.asynccontextmanager
async def with_sessions(folder, count, **rest):
    """Run a server with so many open sessions; gives the backend, the server, its configuration and the clients."""
    async with backend() as back:
        text = text_of(back, folder, **rest)
        async with running(text, folder / "a") as first, clients(first.served.port(), count) as found:
            for one in found:
                await opened(one)
            yield back, first, text, found


async def echoes(client):
    """Send bytes over a session, which come back."""
    size = len(client.received)
    await client.send(b"more")
    await client.until(lambda: len(client.received) == size + 4)


async def given_away(first):
    """Wait until all sessions are given away; give how many were, how many are lost and how many are left."""
    line = await first.served.records.wait("sessions.handed_over")
    return line["count"], line["lost"], line["left"]


async def test_what_happens_to_sessions_while_one_is_on_its_way(tmp_path):
    """Of a list that was told: one loses its client and goes along, one ends. None begins: that is up to the next."""
    async with with_sessions(tmp_path, 3) as (back, first, text, found), session(first.served.port()) as late:
        one, detached, ended = found
        one.cut()  # it goes first
        await first.served.records.wait("session.detached")
        await late.connect(frame_too=False)
        async with taking_over(first.path, text) as second:
            await trio.testing.wait_all_tasks_blocked(0.01)
            detached.cut()
            await first.served.records.wait("session.detached", 2)
            await ended.leave(1000)
            await first.served.records.wait("session.closed")
            await late.flush()
            await late.until(lambda: late.ended or late.machine.state.value == "attached")
            assert late.end == (4014, "draining")
            assert await second.adopt() == (2, 0, 1)
            for client in (one, detached):
                await client.resume()
                await echoes(client)
            assert back.dials - back.lost == 3


async def test_a_process_that_is_too_slow_gets_no_session(tmp_path, monkeypatch):
    """It reads the session that it was given after the other one has told the client that it is lost."""
    monkeypatch.setattr(takeover, "SESSION_TIMEOUT", 0.2)
    async with with_sessions(tmp_path, 2) as (back, first, text, found), taking_over(first.path, text) as second:
        assert await given_away(first) == (0, 1, 1)
        (lost,) = [one for one in found if one.ended] or [found[0]]
        await lost.until(lambda: lost.ended)
        assert lost.end == (4004, "session_lost")
        await back.until(lost=1)
        assert await second.adopt() == (0, 0, 2)
        assert not second.server.services.sessions.sessions
        await echoes(next(one for one in found if not one.ended))


async def test_a_stopped_process_does_not_hold_this_one(tmp_path, monkeypatch):
    """It reads nothing, and the list of the sessions is larger than what the kernel holds for it."""
    monkeypatch.setattr(takeover, "SESSION_TIMEOUT", 0.2)
    monkeypatch.setattr(takeover, "SEND_TIMEOUT", 0.2)
    more = tuple(number.to_bytes(16, "big") for number in range(20_000))

    def begin_handover(store):
        listed = handover.begin_handover(store)
        return SavedList(listed.epoch, (*listed.session_ids, *more))

    monkeypatch.setattr(takeover, "begin_handover", begin_handover)
    async with with_sessions(tmp_path, 1) as (_, first, _, found), asking(first.path) as stream:
        await stream.send_all(READY)
        assert await given_away(first) == (0, 0, 1)
        await echoes(found[0])


async def test_the_backend_of_a_lost_session_is_reset_at_once(tmp_path, monkeypatch):
    """Also while the process that was to get it has the descriptor, and does nothing with it."""
    monkeypatch.setattr(takeover, "SESSION_TIMEOUT", 0.2)
    async with with_sessions(tmp_path, 1) as (back, first, text, found), taking_over(first.path, text):
        await found[0].until(lambda: found[0].ended)
        assert found[0].end == (4004, "session_lost")
        with trio.fail_after(2):
            await back.until(lost=1)
