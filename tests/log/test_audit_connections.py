"""The audit records of whole connections."""

import json

import pytest
import trio

from tests.client import request
from tests.serving import backend, config_of, serving, written
from tests.sessions.client import one_session
from wsbridge.reasons import Reason
from wsbridge.server import Server


def lines(path, *events):
    """Read the records of these events."""
    return [line for line in map(json.loads, path.read_text().splitlines()) if line["event"] in events]


async def test_a_relayed_connection_is_reported_twice(tmp_path):
    """When both sides are there and when it has ended, by one id, which is the log's too."""
    path = tmp_path / "audit.jsonl"
    route = {"auth": {"kind": "network", "allow": ["127.0.0.0/8"]}}
    async with backend() as back:
        text = written(route={**route, "backend": back.url}, audit={"file": str(path)})
        async with serving(text) as served:
            client = await served.upgraded("/x?token=geheim", "Origin: http://localhost")
            with trio.fail_after(9):
                while not lines(path, "access.granted"):
                    await trio.sleep(0.01)
            assert not lines(path, "access.ended")
            await client.echoed(b"12345")
            await client.close()
            logged = await served.records.wait("connection.closed")
        assert [line["event"] for line in map(json.loads, path.read_text().splitlines())] == [
            "audit.started",
            "access.granted",
            "access.ended",
            "audit.stopped",
        ]
        (admitted,), (ended,) = lines(path, "access.granted"), lines(path, "access.ended")
        assert admitted["id"] == ended["id"] == logged["id"]
        assert (admitted["auth_method"], admitted["route"], admitted["listener"]) == ("network", "app", "web")
        assert (admitted["path"], admitted["origin"]) == ("/x?token=***", "http://localhost")
        assert (admitted["backend"], admitted["backend_address"]) == (back.url, f"127.0.0.1:{back.port}")
        assert (ended["reason"], ended["close_code"], ended["bytes_to_backend"], ended["bytes_to_client"]) == (
            "client_closed",
            1000,
            5,
            5,
        )


async def test_the_end_of_a_session_is_reported_by_itself(tmp_path):
    """Its connections have ended before, for another reason; the bytes of them all add up."""
    path = tmp_path / "audit.jsonl"
    async with one_session(timeouts={"idle": "300ms"}, audit={"file": str(path)}) as (_, served, client):
        await client.send(b"12345")
        await client.until(lambda: client.received == b"12345")
        client.cut()
        await client.resume()
        await client.send(b"678")
        await client.until(lambda: client.received == b"12345678")
        client.cut()
        await served.records.wait("session.closed")
    granted, ended = lines(path, "access.granted"), lines(path, "access.ended")
    (whole,) = lines(path, "session.ended")
    assert {line["session"] for line in (*granted, *ended, whole)} == {client.machine.session_id.hex()}
    assert [line["reason"] for line in ended] == ["client_lost"] * 2
    assert (whole["reason"], whole["initiator"], whole["transports"]) == ("idle_timeout", "wsbridge", 2)
    for key in ("bytes_to_backend", "bytes_to_client"):
        assert sum(line[key] for line in ended) == whole[key] == 8


async def test_the_session_of_a_backend_is_in_both_records(tmp_path):
    """The client is a plain one, and the WebSocket server has the session."""
    path = tmp_path / "audit.jsonl"
    listeners = {"old": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "out"}}
    async with backend() as back, serving(written(route={"backend": back.url, "resume": {}})) as far:
        routes = {"out": {"backend": f"ws://127.0.0.1:{far.port()}/", "auth": "none"}}
        async with serving(written(listeners=listeners, routes=routes, audit={"file": str(path)})) as near:
            with await near.connect("old") as client:
                await client.send(b"x")
                assert await client.take(1) == b"x"
            await near.records.wait("connection.closed", route="out")
    (granted,), (ended,) = lines(path, "access.granted"), lines(path, "access.ended")
    assert granted["session"] == ended["session"]


async def test_refusals_are_all_reported(tmp_path):
    """One record for each, however many come, with the reason and what is known; the dial is not among them."""
    path = tmp_path / "audit.jsonl"
    route = {"backend": "tcp://127.0.0.1:9", "auth": {"kind": "network", "allow": ["192.0.2.0/24"]}}
    async with serving(written(route=route, audit={"file": str(path)})) as served:
        for number in range(250):
            with await served.connect() as client:
                await client.send(request(f"/{number}"))
                await client.everything()
    refused = lines(path, "access.denied")
    assert [line["path"] for line in refused] == [f"/{number}" for number in range(250)]
    assert {(line["reason"], line["status"], line["route"]) for line in refused} == {("forbidden", 403, "app")}
    assert not lines(path, "access.granted", "access.ended")


async def test_a_connection_that_a_stop_cut_is_ended(tmp_path):
    """The last records are those of connections that the end of the process ended."""
    path = tmp_path / "audit.jsonl"
    async with backend() as back, serving(written(route={"backend": back.url}, audit={"file": str(path)})) as served:
        client = await served.upgraded()
        served.server.stop(Reason.SHUTDOWN)
        await served.returned.wait()
        client.drop()
    (ended,) = lines(path, "access.ended")
    assert ended["reason"] == "shutdown"


async def test_a_file_that_cannot_be_opened_refuses_to_start(tmp_path):
    """No listener opens without the audit."""
    gone = tmp_path / "logs"
    gone.mkdir()
    server = Server(config_of(written(route={"respond": "204"}, audit={"file": str(gone / "a.jsonl")})))
    gone.rmdir()
    with pytest.raises(ValueError, match=r"audit: .*a\.jsonl cannot be opened: No such file or directory"):
        await server.run(lambda _: pytest.fail("it listens"))
