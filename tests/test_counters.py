"""The counters of routes and listeners."""

from __future__ import annotations

import pytest
import trio

from tests.serving import backend, serving, written
from wsbridge.access_log import close_code_class, observe
from wsbridge.counters import Histogram


def test_a_value_on_a_bound_belongs_to_it():
    """As the buckets of Prometheus say: less than or equal."""
    histogram = Histogram((1.0, 5.0), [0, 0, 0])
    for value in (0.5, 1.0, 1.1, 5.0, 5.1, 1000.0):
        observe(histogram, value)
    assert (histogram.counts, histogram.total) == ([2, 2, 2], 1012.7)


@pytest.mark.parametrize(
    ("code", "name"),
    [(1000, "1000"), (1001, "1001"), (1005, "1005"), (1006, "1xxx"), (1011, "1xxx"), (3008, "3xxx"), (4999, "4xxx")],
)
def test_close_codes_have_a_few_classes(code, name):
    """A client chooses among two thousand codes, which are two classes."""
    assert close_code_class(code) == name


async def test_bytes_of_open_connections_are_counted_once():
    """As often as they are counted, before the end and at it."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        stats = served.server.services.route_stats("app")
        client = await served.upgraded()
        await client.echoed(b"12345")
        assert (stats.bytes_to_backend, stats.bytes_to_client) == (0, 0)
        for _ in range(2):
            await served.server.acceptor.count_bytes()
            assert (stats.bytes_to_backend, stats.bytes_to_client) == (5, 5)
        await client.echoed(b"123")
        await client.close()
        await served.quiet()
        await served.server.acceptor.count_bytes()
        assert (stats.bytes_to_backend, stats.bytes_to_client) == (8, 8)


async def test_bytes_never_go_back_while_connections_end():
    """Read all the time, while connections carry bytes and end in every way."""
    seen = []

    async def watch(server):
        stats = server.services.route_stats("app")
        while True:
            await server.acceptor.count_bytes()
            seen.append(stats.bytes_to_backend)
            await trio.sleep(0)

    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, served.server)
            for round_ in range(20):
                client = await served.upgraded()
                await client.echoed(b"x" * 1000)
                if round_ % 2:
                    await client.close()
                else:
                    client.drop()
                await served.quiet()
            nursery.cancel_scope.cancel()
        assert seen == sorted(seen)
        assert set(seen) >= {1000 * round_ for round_ in range(20)}
        assert served.server.services.route_stats("app").bytes_to_backend == 20_000
