"""TLS clients that send records without payload: they are cut off, and nobody else waits for them."""

from __future__ import annotations

import socket
import threading
import time

import trio

from tests.authority import client_context
from tests.net.tls_ends import key_updates, until_broken
from tests.serving import backend, serving, written

ATTACKERS = 4


def flood(port: int, stop: threading.Event) -> None:
    """Connect over and over, and send key updates as long as the server reads them."""
    while not stop.is_set():
        with socket.create_connection(("127.0.0.1", port)) as sock:
            tls = client_context().wrap_socket(sock, server_hostname="localhost")
            until_broken(lambda tls=tls: key_updates(tls, 100_000))
            tls.close()


async def test_other_connections_are_served_during_a_flood() -> None:
    """The round trip of another connection stays short during the attack, and the attackers are logged."""
    async with (
        backend() as back,
        serving(written(route={"backend": back.url}, tls=True)) as served,
        trio.open_nursery() as nursery,  # the attackers end before the server does: it would reset their handshakes
    ):
        client = await served.upgraded(tls=True)
        times = []
        stop = threading.Event()
        for _ in range(ATTACKERS):
            nursery.start_soon(trio.to_thread.run_sync, flood, served.port(), stop)
        began = time.monotonic()
        try:
            while time.monotonic() - began < 1.5 or len(times) < 20:
                before = time.perf_counter()
                await client.echoed()
                times.append(time.perf_counter() - before)
                await trio.sleep(0.002)
        finally:
            stop.set()
        line = await served.records.wait("connection.rejected", reason="control_flood")
        assert "without payload" in line["detail"]
        times.sort()
        assert times[len(times) * 9 // 10] < 0.5, times[-20:]
        client.drop()
