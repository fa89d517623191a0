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
        async with trio.open_nursery() as first:
            first.start_soon(resolver.resolve, "gw", 5900)
            await trio.testing.wait_all_tasks_blocked(0.01)
            first.cancel_scope.cancel()

        async def second():
            assert await resolver.resolve("gw", 5900) == ADDRESSES

        nursery.start_soon(second)
        await trio.testing.wait_all_tasks_blocked(0.01)
        dns.go.set()

    assert dns.asked == ["gw"]


async def test_answers_are_kept_for_the_ttl(mock_clock):
    """Within the ttl nobody is asked, for any port; after it, again."""
    dns = Dns()
    async with Resolver(ttl=30, getaddrinfo=dns) as resolver:
        assert await resolver.resolve("gw", 5900) == ADDRESSES
        assert resolver.cached("gw", 5901)[1].sockaddr == ("192.0.2.1", 5901)
        mock_clock.jump(29.9)
        await resolver.resolve("gw", 5900)
        assert len(dns.asked) == 1

        mock_clock.jump(0.2)
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
    """Leaving the block abandons the threads, and nobody waits forever."""
    dns = Dns(held=True)
    with trio.fail_after(9):
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


async def test_an_expired_answer_is_used_while_a_lookup_hangs(mock_clock):
    """After a second, also by those who ask later; the new answer counts when it is there."""
    dns = Dns()
    async with Resolver(ttl=30, getaddrinfo=dns) as resolver, trio.open_nursery() as nursery:
        await resolver.resolve("gw", 5900)
        dns.go.clear()
        mock_clock.jump(31)
        found = []

        async def ask():
            found.append(await resolver.resolve("gw", 5900))

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not found
        mock_clock.jump(1.1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert found == [ADDRESSES]
        assert await resolver.resolve("gw", 5900) == ADDRESSES
        dns.go.set()
    assert len(dns.asked) == 2


async def test_an_expired_answer_is_used_more_than_once_while_other_lookups_have_all_threads(mock_clock):
    """Its own lookup cannot begin, and nobody waits for that after the first."""
    dns = Dns()
    async with Resolver(threads=1, ttl=30, getaddrinfo=dns) as resolver, trio.open_nursery() as nursery:
        await resolver.resolve("gw", 5900)
        dns.go.clear()
        mock_clock.jump(31)
        nursery.start_soon(resolver.resolve, "hangs", 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        found = []

        async def ask():
            found.append(await resolver.resolve("gw", 5900))

        for count in range(1, 4):
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(2.1)  # it may be tried again, and that takes too long
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert found == [ADDRESSES] * count
        dns.go.set()
    assert dns.asked == ["gw", "hangs"]


async def test_a_forgotten_name_is_looked_up_again_and_never_used_stale(mock_clock):
    """Its addresses did not answer."""
    dns = Dns()
    async with Resolver(ttl=30, getaddrinfo=dns) as resolver:
        await resolver.resolve("gw", 5900)
        resolver.forget("gw")
        assert resolver.cached("gw", 5900) is None
        dns.failure = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        with pytest.raises(socket.gaierror):
            await resolver.resolve("gw", 5900)


async def test_a_name_that_is_forgotten_during_a_lookup_is_not_used_stale(mock_clock):
    """A dial with the expired answer has failed in the meantime: everybody waits for the new one."""
    dns = Dns()
    async with Resolver(ttl=30, getaddrinfo=dns) as resolver, trio.open_nursery() as nursery:
        await resolver.resolve("gw", 5900)
        dns.go.clear()
        mock_clock.jump(31)
        found = []

        async def ask():
            found.append(await resolver.resolve("gw", 5900))

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.01)
        resolver.forget("gw")
        mock_clock.jump(1.1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not found
        dns.go.set()
    assert found == [ADDRESSES]


async def test_an_expired_answer_is_used_where_a_lookup_fails_for_the_time_being(mock_clock):
    """A name that is gone for good is gone."""
    dns = Dns()
    async with Resolver(ttl=30, getaddrinfo=dns) as resolver:
        await resolver.resolve("gw", 5900)
        mock_clock.jump(31)
        dns.failure = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        assert await resolver.resolve("gw", 5900) == ADDRESSES
        mock_clock.jump(31)
        dns.failure = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        with pytest.raises(socket.gaierror):
            await resolver.resolve("gw", 5900)


class SomeHang(Dns):
    """A getaddrinfo where names that begin with `hang` wait to be let go."""

    def __call__(self, host, port, **_):
        self.asked.append(host)
        if host.startswith("hang"):
            self.go.wait(10)
        return ANSWER


async def test_names_of_clients_that_hang_hold_up_neither_the_configuration_nor_other_routes():
    """Each route has threads of its own, and names of the configuration have others."""
    dns = SomeHang(held=True)
    with trio.fail_after(9):
        async with Resolver(getaddrinfo=dns, client_threads=2) as resolver, trio.open_nursery() as nursery:
            route, other = (resolver.for_client_names(absolute=True) for _ in range(2))
            for number in range(8):
                nursery.start_soon(route.resolve, f"hang{number}", 1)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert await resolver.resolve("gw", 5900) == ADDRESSES
            assert await other.resolve("gw", 5900) == ADDRESSES
            dns.go.set()


async def test_waiting_lookups_leave_with_those_who_asked():
    """A lookup that no thread has begun is never begun, and the names after it have their turn."""
    dns = SomeHang(held=True)
    with trio.fail_after(9):
        async with Resolver(getaddrinfo=dns, client_threads=1) as resolver:
            route = resolver.for_client_names(absolute=False)
            for number in range(5):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(route.resolve, f"hang{number}", 1)
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    while not dns.asked:
                        await trio.sleep(0.005)
                    nursery.cancel_scope.cancel()
            dns.go.set()
            assert await route.resolve("gw", 5900) == ADDRESSES
    assert dns.asked == ["hang0", "gw"]


async def test_one_client_does_not_hold_up_the_others():
    """Its names wait for its own two threads; also one that another client asks for, too, has a thread at once."""
    dns = SomeHang(held=True)
    reports = []
    with trio.fail_after(9):
        async with (
            Resolver(getaddrinfo=dns, client_threads=4, threads_per_client=2) as resolver,
            trio.open_nursery() as nursery,
        ):
            route = resolver.for_client_names(absolute=False)
            for number in range(20):
                nursery.start_soon(route.resolve, f"hang{number}", 1, "flooder")
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.start_soon(route.resolve, "gw", 1, "flooder")
            with trio.move_on_after(0.05):
                await route.resolve("gw", 1, "flooder", reports.append)
            assert len(dns.asked) == 2
            assert await route.resolve("gw", 5900, "other") == ADDRESSES
            assert await route.resolve("gw2", 5900, "third") == ADDRESSES
            assert await route.resolve("gw3", 5900) == ADDRESSES
            assert reports == [
                "waiting to look up gw: 2 lookups have not ended, and limits.dns_threads_per_address is 2"
            ]
            dns.go.set()
    assert sorted(dns.asked) == sorted([*(f"hang{number}" for number in range(20)), "gw", "gw2", "gw3"])
    assert not route._client_limiters


async def test_threads_of_a_client_come_back_when_its_lookups_end():
    """Not when those who asked leave: a thread that hangs counts as long as it does."""
    dns = SomeHang(held=True)
    with trio.fail_after(9):
        async with Resolver(getaddrinfo=dns, threads_per_client=1) as resolver:
            route = resolver.for_client_names(absolute=False)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(route.resolve, "hang", 1, "a")
                while not dns.asked:
                    await trio.sleep(0.005)
                nursery.cancel_scope.cancel()
            with trio.move_on_after(0.05) as waiting:
                await route.resolve("gw", 1, "a")
            assert waiting.cancelled_caught
            dns.go.set()
            assert await route.resolve("gw", 5900, "a") == ADDRESSES
    assert dns.asked == ["hang", "gw"]


async def test_names_of_clients_are_absolute(tmp_path, monkeypatch):
    """No search domain is tried; /etc/hosts counts, where the C library finds no name with a final dot."""
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.7 Gw.example other # comment\n2001:db8::7\tgw.example\nnonsense gw.example\n")
    monkeypatch.setattr("wsbridge.net.resolver.HOSTS_FILE", hosts)
    dns = Dns()
    async with Resolver(getaddrinfo=dns) as resolver:
        route = resolver.for_client_names(absolute=True)
        assert await route.resolve("allowed.example", 5900) == ADDRESSES
        assert [str(address) for address in await route.resolve("gw.example", 1)] == ["192.0.2.7:1", "[2001:db8::7]:1"]
    assert dns.asked == ["allowed.example."]


async def test_literals_are_not_kept():
    """However many there are, with however many ports."""
    resolver = Resolver()
    for port in range(1, 1000):
        assert resolver.cached("192.0.2.9", port) == [Address(socket.AF_INET, ("192.0.2.9", port))]
    assert not resolver._entries
