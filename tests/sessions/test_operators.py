"""What operators see of sessions, and how they end them: admin API, commands, metrics, audit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from tests.admin.test_connections import listed, operated, until
from tests.admin.test_metrics import Scraped, scraped
from tests.serving import backend
from tests.sessions.client import opened, route_of, session
from wsbridge.cli.control import status_text


async def test_a_detached_session_is_listed(tmp_path: Path) -> None:
    """As a connection in that state, with the number of its latest connection; and in the status."""
    async with operated(tmp_path, resume={"ttl": "1m"}) as (admin, _), session(admin.served.port()) as client:
        await opened(client)
        await client.send(b"hello")
        await client.until(lambda: client.received == b"hello")
        attached = await until(admin, state="relaying")
        assert attached["session"] == client.machine.session_id.hex()
        assert (attached["bytes_to_backend"], attached["bytes_to_client"]) == (5, 5)
        client.cut()
        found = await until(admin, state="detached")
        assert (found["id"], found["session"], found["route"]) == (1, attached["session"], "app")
        assert (found["bytes_to_backend"], found["bytes_to_client"], found["ttl_seconds"]) == (5, 5, 60)
        assert found["detached_seconds"] >= 0 and found["held_bytes"] in (0, 5)
        answer = await admin.json("GET", "/v1/connections")
        assert answer["total"] == 1
        status = await admin.json("GET", "/v1/status")
        assert (status["connections"], status["sessions"], status["sessions_detached"]) == (0, 1, 1)
        assert "sessions     1, of which 1 wait for their clients" in status_text(status)
        await client.resume()
        assert (await until(admin, state="relaying"))["id"] == 2
        assert len(await listed(admin)) == 1


@pytest.mark.parametrize(
    "query", ["/v1/connections/{id}", "/v1/connections?route=app", "/v1/connections?client=127.0.0.1"]
)
@pytest.mark.parametrize("away", [True, False])
async def test_a_session_is_ended(tmp_path: Path, query: str, away: bool) -> None:
    """Whether its client is there or not; that learns who ended it."""
    async with operated(tmp_path, resume={}) as (admin, back), session(admin.served.port()) as client:
        await opened(client)
        if away:
            client.cut()
        found = await until(admin, state="detached" if away else "relaying")
        assert await admin.json("DELETE", query.format(**found)) == {"closed": 1}
        line = await admin.served.records.wait("session.closed")
        assert (line["reason"], line["initiator"]) == ("closed_by_operator", "wsbridge")
        assert "user ID" in line["detail"]
        await back.until(lost=1)
        if away:
            assert (await admin.ask("DELETE", query.format(**found)))[0] in (200, 404)
            await client.connect()
        await client.until(lambda: client.ended)
        assert client.end == (4009, "closed_by_operator")
        assert not admin.served.server.services.sessions.sessions


async def test_metrics() -> None:
    """How many there are, how many wait, what they hold, and what became of them."""
    async with backend() as back, scraped(route_of(back)) as daemon, session(daemon.served.port()) as client:
        await opened(client)
        client.cut()
        await daemon.served.records.wait("session.detached")
        assert await sessions_of(daemon) == {"open": 1, "detached": 1, "opened_total": 1, "held_bytes": 0}
        await client.resume()
        await client.leave(1000)
        await daemon.served.records.wait("session.closed")
        totals = {"opened_total": 1, "resumed_total": 1, "closed_total": 1}
        assert await sessions_of(daemon) == {"open": 0, "detached": 0, "held_bytes": 0, **totals}


async def test_held_bytes_are_those_that_are_held() -> None:
    """In both directions: what the client has not acknowledged, and what the backend has not accepted."""
    go_on = trio.Event()

    async def late(stream: trio.SocketStream) -> None:
        await stream.send_all(bytes(300_000))
        await go_on.wait()
        async for _ in stream:
            pass

    async with backend(late) as back, scraped(route_of(back)) as daemon, session(daemon.served.port()) as client:
        client.paused = True
        await opened(client)
        await client.until(lambda: len(client.received) == 300_000)
        store = daemon.served.server.services.sessions
        (found,) = store.sessions.values()
        assert (await sessions_of(daemon))["held_bytes"] == store.memory.used == found.machine.replay_bytes == 300_000
        client.cut()
        await daemon.served.records.wait("session.detached")
        assert (await sessions_of(daemon))["held_bytes"] == 300_000
        await client.resume()
        client.go_on()
        await client.until(lambda: not store.memory.used)
        blocked = 0
        while blocked < 3:  # the kernels between wsbridge and the backend are full
            room = client.machine.room
            client.machine.send(bytes(room))
            await client.flush()
            blocked = 0 if room else blocked + 1
            await trio.sleep(0.1)
        held = found.machine.unconsumed_bytes
        assert (await sessions_of(daemon))["held_bytes"] == store.memory.used == held > 0
        go_on.set()
        await client.until(lambda: not store.memory.used)
        assert (await sessions_of(daemon))["held_bytes"] == 0


async def sessions_of(daemon: Scraped) -> dict[str, float]:
    """Give the values of the metrics of sessions, without their labels."""
    page = await daemon.text()
    lines = [line for line in page.splitlines() if line.startswith("wsbridge_sessions_")]
    names = [line.partition("{")[0].partition(" ")[0].removeprefix("wsbridge_sessions_") for line in lines]
    found = dict(zip(names, (float(line.rpartition(" ")[2]) for line in lines), strict=True))
    assert found.pop("held_limit_bytes") == 256 << 20
    return found


async def test_lines_of_a_session(tmp_path: Path) -> None:
    """One for each connection, one for the session, with the same id."""
    async with operated(tmp_path, resume={}) as (admin, _), session(admin.served.port()) as client:
        await opened(client)
        await client.send(b"12345")
        await client.until(lambda: client.received == b"12345")
        client.cut()
        await admin.served.records.wait("session.detached")
        await client.resume()
        await client.send(b"678")
        await client.until(lambda: client.received == b"12345678")
        await client.leave(1000)
        records = admin.served.records
        whole = await records.wait("session.closed")
        await records.wait("connection.closed", 2)
        parts = records.of("connection.closed")
        assert [part["session"] for part in parts] == [whole["session"]] * 2
        assert [part["bytes_to_backend"] for part in parts] == [5, 3]
        assert (whole["bytes_to_backend"], whole["bytes_to_client"], whole["transports"]) == (8, 8, 2)
        assert whole["id"] == 2
        ended = (await admin.json("GET", "/v1/connections"))["ended"]
        assert sorted(one["event"] for one in ended) == ["connection.closed", "connection.closed", "session.closed"]
        text = json.dumps(records.all)
        for secret in (client.machine._token.hex(), repr(client.machine._token)[2:-1]):
            assert secret not in text
