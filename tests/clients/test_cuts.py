"""Real programs whose connection is cut again and again in mid-transfer: ssh, and Redis through two wsbridges."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.clients.program import program
from tests.clients.test_redis import redis  # noqa: F401  fixtures are imported, and used as parameters (F811)
from tests.clients.test_ssh import keys, ssh_command, sshd  # noqa: F401  as above
from tests.cutting_proxy import CuttingProxy, cutting_proxy
from tests.process.daemon import Daemon
from tests.process.memory import ROOM, Sampler
from tests.serving import backend
from wsbridge.client import open_resumable


def far_side(backend: int) -> Daemon:
    """Give a wsbridge with resumable sessions in front of a TCP server."""
    return Daemon(
        f"""
        listeners: {{web: {{bind: '127.0.0.1:0'}}}}
        limits: {{detached_sessions_per_identity: 100}}
        routes: {{app: {{match: any, backend: 'tcp://127.0.0.1:{backend}', auth: none, resume: {{}}}}}}
        """
    )


@pytest.fixture
def far_sshd(sshd: int) -> Iterator[Daemon]:  # noqa: F811
    """That of sshd."""
    with far_side(sshd) as daemon:
        yield daemon


@pytest.fixture
def far_redis(redis: int) -> Iterator[Daemon]:  # noqa: F811
    """That of Redis."""
    with far_side(redis) as daemon:
        yield daemon


@asynccontextmanager
async def cutting(target: int, every: int | tuple[float, float]) -> AsyncIterator[CuttingProxy]:
    """Run a proxy in front of a port that cuts its connections.

    Args:
        target: The port.
        every: So many bytes, or a random time between so many seconds.
    """
    async with cutting_proxy(target) as proxy, trio.open_nursery() as nursery:
        if isinstance(every, int):
            proxy.cut_every = every
        else:
            nursery.start_soon(proxy.cut_often, *every, 5)
        yield proxy
        nursery.cancel_scope.cancel()


async def transfer(keys: Path, far: Daemon, size: int, every: int) -> int:  # noqa: F811
    """Send a file through ssh, have it come back, and compare; give the number of cuts."""
    blob = os.urandom(size)
    async with cutting(far.port(), every) as proxy:
        command = [*map(str, ssh_command(keys, proxy.url, "--retry-for", "30s")), "cat"]
        result = await trio.run_process(command, stdin=blob, capture_stdout=True, capture_stderr=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(blob).digest()
    return proxy.cuts


async def test_ssh_survives_cuts(keys: Path, far_sshd: Daemon) -> None:  # noqa: F811
    """Megabytes go up and come down over connections that are cut; ssh notices nothing."""
    with trio.fail_after(60):
        assert await transfer(keys, far_sshd, 4_000_000, every=800_000) >= 6
    end = far_sshd.wait("session.closed")
    assert end["transports"] >= 6
    assert end["bytes_to_backend"] > 4_000_000


@pytest.mark.soak
async def test_ssh_survives_many_cuts(keys: Path, far_sshd: Daemon) -> None:  # noqa: F811
    """The same with more bytes, and more of them on each connection."""
    with trio.fail_after(300):
        assert await transfer(keys, far_sshd, 300_000_000, every=20_000_000) >= 20


@pytest.mark.soak
@pytest.mark.parametrize("silently", [False, True])
async def test_ssh_survives_half_a_minute_without_a_network(keys: Path, far_sshd: Daemon, silently: bool) -> None:  # noqa: F811
    """In mid-work connections are reset, and nothing can be reached; or nobody learns of it. Then it goes on."""
    blob = os.urandom(1_000_000)

    async def echoed(part: bytes) -> None:
        nursery.start_soon(process.stdin.send_all, part)
        received = bytearray()
        while len(received) < len(part):
            received += await process.stdout.receive_some(65536)
        assert received == part

    with trio.fail_after(120):
        async with cutting_proxy(far_sshd.port()) as proxy, trio.open_nursery() as nursery:
            command = [*map(str, ssh_command(keys, proxy.url)), "cat"]
            process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            await echoed(blob)
            if silently:
                proxy.die()
            else:
                proxy.go_down()
            nursery.start_soon(echoed, blob[:500_000])
            await trio.sleep(30)  # half a minute without a network is what is tested
            assert process.poll() is None
            proxy.come_up()
            if silently:
                proxy.cut()  # a path that has changed: what was under way on the old one is lost
            while nursery.child_tasks:
                await trio.sleep(0.01)
            await echoed(blob)
            await process.stdin.aclose()
            assert await process.wait() == 0
            end = await far_sshd.wait_in_thread("session.closed")
    assert end["transports"] >= 2


def near_side(proxy: CuttingProxy) -> Daemon:
    """Give a wsbridge for TCP clients in front of one with resumable sessions."""
    return Daemon(
        f"""
        listeners: {{old: {{bind: '127.0.0.1:0', protocol: tcp, route: out}}}}
        routes: {{out: {{backend: '{proxy.url}', auth: none, dial: {{retry_for: 30s}}}}}}
        """
    )


async def benchmark(far: Daemon, requests: int, pipeline: int, every: int | tuple[float, float]) -> int:
    """Run redis-benchmark through two wsbridges; give the number of cuts."""
    async with cutting(far.port(), every) as proxy:
        with near_side(proxy) as near:
            command = [
                *(program("redis-benchmark"), "-h", "127.0.0.1", "-p", str(near.port()), "--csv", "-d", "1000"),
                *("-c", "20", "-n", str(requests), "-P", str(pipeline), "-t", "set,get,lpush,lrange_100"),
            ]
            result = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
            assert result.returncode == 0, result.stderr.decode()
            assert b"rror" not in result.stdout + result.stderr, result.stderr.decode()
            rows = [row.split(",")[0].strip('"').split()[0] for row in result.stdout.decode().splitlines()[1:]]
            assert rows == ["SET", "GET", "LPUSH", "LPUSH", "LRANGE_100"]
            end = await near.wait_in_thread("connection.closed", route="out")
            assert end["reason"] == "client_closed"
            assert near.log_lines("internal_error") == far.log_lines("internal_error") == []
            assert await near.wait_in_thread("backend.resumed")
    return proxy.cuts


async def test_redis_benchmark_survives_cuts(far_redis: Daemon) -> None:
    """It ends without an error although the connections between the two wsbridges are cut all the time."""
    with trio.fail_after(60):
        assert await benchmark(far_redis, 600, 1, every=8_000_000) >= 40  # up to twenty connections each time


@pytest.mark.soak
async def test_redis_benchmark_survives_many_cuts(far_redis: Daemon) -> None:
    """The same for longer, with pipelined requests."""
    with trio.fail_after(300):
        assert await benchmark(far_redis, 50_000, 16, every=(0.2, 2.0)) >= 100


GIBIBYTE = 1 << 30
CHUNK = 1 << 18


@asynccontextmanager
async def by_tcp(proxy: CuttingProxy) -> AsyncIterator[trio.abc.HalfCloseableStream]:
    """Connect a TCP client by a wsbridge of its own, whose memory is bounded, too."""
    with near_side(proxy) as near, Sampler(near) as memory:
        async with await trio.open_tcp_stream("127.0.0.1", near.port()) as client:
            yield client
        assert await near.wait_in_thread("backend.resumed")
        end = await near.wait_in_thread("connection.closed")
        assert end["bytes_to_backend"] == GIBIBYTE
    assert memory.most - memory.first < ROOM


@asynccontextmanager
async def by_python(proxy: CuttingProxy) -> AsyncIterator[trio.abc.HalfCloseableStream]:
    """Connect the Python client."""
    async with open_resumable(proxy.url) as client:
        yield client


@pytest.mark.soak
@pytest.mark.parametrize("connect", [by_tcp, by_python])
async def test_a_gibibyte_both_ways(
    connect: Callable[[CuttingProxy], AbstractAsyncContextManager[trio.abc.HalfCloseableStream]],
) -> None:
    """Different bytes in both directions at once, cut every 0.2 to 2 s: hashes are equal, and memory is bounded."""
    digests = {name: hashlib.sha256() for name in ("up", "up there", "down", "down here")}

    async def send(stream: trio.abc.HalfCloseableStream, name: str) -> None:
        for _ in range(GIBIBYTE // CHUNK):
            data = os.urandom(CHUNK)
            digests[name].update(data)
            await stream.send_all(data)
        await stream.send_eof()

    async def serve(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, stream, "down")
            async for data in stream:
                digests["up there"].update(data)

    async with backend(serve) as back:
        with far_side(back.port) as far:
            async with cutting(far.port(), (0.2, 2.0)) as proxy:
                with Sampler(far) as memory:
                    async with connect(proxy) as client, trio.open_nursery() as nursery:
                        nursery.start_soon(send, client, "up")
                        async for data in client:
                            digests["down here"].update(data)
                    await back.until(finished=1)
                    end = await far.wait_in_thread("session.closed")
    assert (end["bytes_to_backend"], end["bytes_to_client"]) == (GIBIBYTE, GIBIBYTE)
    assert end["transports"] > 5 <= proxy.cuts
    assert digests["up"].digest() == digests["up there"].digest()
    assert digests["down"].digest() == digests["down here"].digest()
    assert memory.most - memory.first < ROOM
