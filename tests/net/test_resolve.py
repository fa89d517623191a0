"""The resolver: literals, single flight, caching, cancellation, the end of the process."""

import socket
import threading

import pytest
import trio
import trio.testing

from wsbridge.net.address import Address
from wsbridge.net.resolver import Resolver

ANSWER = [
    (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0)),
    (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
    (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
]
ADDRESSES = [
    Address(socket.AF_INET6, ("2001:db8::1", 5900, 0, 0)),
    Address(socket.AF_INET, ("192.0.2.1", 5900)),
]


class Dns:
    """A getaddrinfo that waits to be let go, counts, and can fail."""

    def __init__(self, failure=None, held=False):
        self.asked = []
        self.failure = failure
        self.go = threading.Event()
        if not held:
            self.go.set()

    def __call__(self, host, port, **_):
        self.asked.append(host)
        self.go.wait(10)
        if self.failure is not None:
            raise self.failure
        return ANSWER


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.9", Address(socket.AF_INET, ("192.0.2.9", 80))),
        ("2001:db8::9", Address(socket.AF_INET6, ("2001:db8::9", 80, 0, 0))),
    ],
)
async def test_literals_are_not_looked_up(host, expected):
    """An IP literal never goes to a thread, not even outside the block."""
    dns = Dns()
    resolver = Resolver(getaddrinfo=dns)

    assert await resolver.resolve(host, 80) == [expected]
    assert resolver.cached(host, 81)[0].sockaddr[1] == 81
    assert dns.asked == []


async def test_one_look_up_for_many_waiters():
    """Those who ask while a look-up is under way wait for that one."""
    dns = Dns(held=True)
    found = []

    async def ask(resolver):
        found.append(await resolver.resolve("gw", 5900))

    async with Resolver(getaddrinfo=dns) as resolver, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask, resolver)
        await trio.testing.wait_all_tasks_blocked(0.01)
        dns.go.set()

    assert found == [ADDRESSES] * 5
    assert dns.asked == ["gw"]


async def test_a_cancelled_waiter_does_not_take_the_answer_from_the_others():
    """The look-up belongs to the resolver, also when the one who began it has gone."""
    dns = Dns(held=True)
    async with Resolver(getaddrinfo=dns) as resolver, trio.open_nursery() as nursery:
        with trio.move_on_after(0.02):
            await resolver.resolve("gw", 5900)

        async def second():
            assert await resolver.resolve("gw", 5900) == ADDRESSES

        nursery.start_soon(second)
        await trio.testing.wait_all_tasks_blocked(0.01)
        dns.go.set()

    assert dns.asked == ["gw"]


async def test_answers_are_kept_for_the_ttl(monkeypatch):
    """Within the ttl nobody is asked, for any port; after it, again."""
    now = 100.0
    monkeypatch.setattr(trio, "current_time", lambda: now)
    dns = Dns()
    async with Resolver(ttl=30, getaddrinfo=dns) as resolver:
        assert await resolver.resolve("gw", 5900) == ADDRESSES
        assert resolver.cached("gw", 5901)[1].sockaddr == ("192.0.2.1", 5901)
        now = 129.9
        await resolver.resolve("gw", 5900)
        assert len(dns.asked) == 1

        now = 130.0
        assert resolver.cached("gw", 5900) is None
        await resolver.resolve("gw", 5900)
        assert len(dns.asked) == 2


async def test_failures_are_kept_shortly(monkeypatch):
    """A name that failed is not asked for again for the negative ttl, and each asker gets its own exception."""
    now = 100.0
    monkeypatch.setattr(trio, "current_time", lambda: now)
    dns = Dns(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    async with Resolver(negative_ttl=2, getaddrinfo=dns) as resolver:
        errors = []
        for moment in (100.0, 101.9, 102.0):
            now = moment
            with pytest.raises(socket.gaierror) as caught:
                await resolver.resolve("gw", 5900)
            errors.append(caught.value)

    assert len(dns.asked) == 2
    assert len(set(map(id, errors))) == 3
    assert errors[1].errno == socket.EAI_NONAME


@pytest.mark.parametrize("failure", [UnicodeError("label too long"), OSError(24, "Too many open files")])
async def test_odd_failures_are_errors_of_the_system(failure):
    """Whatever the look-up raises for a bad name or a full table reaches the asker as OSError."""
    async with Resolver(getaddrinfo=Dns(failure)) as resolver:
        with pytest.raises(OSError, match=r"valid host name|Too many"):
            await resolver.resolve("gw", 5900)


async def test_names_without_usable_addresses_fail():
    """An empty answer is a failure of the name."""
    async with Resolver(getaddrinfo=lambda *_, **__: []) as resolver:
        with pytest.raises(socket.gaierror):
            await resolver.resolve("gw", 5900)


async def test_a_dns_server_that_never_answers_does_not_hold_up_the_end():
    """Leaving the block abandons the threads, and nobody waits for ever."""
    dns = Dns(held=True)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, Resolver(threads=1, getaddrinfo=dns) as resolver:

            async def ask(host):
                with pytest.raises(socket.gaierror):
                    await resolver.resolve(host, 1)

            for host in ("one", "two"):
                nursery.start_soon(ask, host)
            await trio.testing.wait_all_tasks_blocked(0.01)
    dns.go.set()


async def test_the_cache_is_bounded(monkeypatch):
    """The oldest name goes when there are too many."""
    monkeypatch.setattr("wsbridge.net.resolver.MAX_CACHED_NAMES", 2)
    dns = Dns()
    async with Resolver(getaddrinfo=dns) as resolver:
        for host in ("one", "two", "three"):
            await resolver.resolve(host, 1)

        assert resolver.cached("one", 1) is None
        assert resolver.cached("three", 1) is not None


async def test_names_outside_the_block_are_our_mistake():
    """Nobody would hold the look-up."""
    with pytest.raises(RuntimeError):
        await Resolver().resolve("gw", 1)
