"""Limits of client addresses: what counts together, what is rejected and logged, and how large the table gets."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from tests.serving import recording
from wsbridge.config.limits import ClientLimits
from wsbridge.limits.clients import UNIX_KEY, ClientSlot, ClientTable, ConnectionCounts, client_key
from wsbridge.reasons import Reason, Rejected


class Clock:
    """A clock of the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def table(**limits: object) -> tuple[ClientTable, Clock]:
    """Give a table without exempt networks, and its clock."""
    clock = Clock()
    return ClientTable(ClientLimits(**{"exempt": (), **limits}), clock), clock


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "", True),
        ("192.0.2.1", "", False),
        ("no address", "no address", True),
    ],
)
def test_what_counts_together(one: str, other: str, same: bool) -> None:
    """IPv4 singly, IPv6 by /64, mapped ones as IPv4, all Unix sockets as one."""
    assert (client_key(one) == client_key(other)) is same


def test_the_key_of_unix() -> None:
    """Clients of Unix sockets have no address."""
    assert client_key("") == UNIX_KEY


def test_connections_at_a_time() -> None:
    """One more than allowed is not counted in; when one has left, there is room again."""
    addresses, _ = table(connections=2)
    assert [addresses.acquire(b"a") for _ in range(3)] == [True, True, False]
    assert addresses.acquire(b"b")
    assert addresses.connection_count(b"a") == 2
    addresses.release(b"a")
    assert addresses.acquire(b"a")


def test_any_number_of_connections() -> None:
    """With off nobody is refused."""
    addresses, _ = table(connections=None)
    assert all(addresses.acquire(b"a") for _ in range(1000))


def test_handshakes_come_back_with_time() -> None:
    """A burst at once, then so many a second; the wait that is reported is enough and not too much."""
    addresses, clock = table(handshake_rate=20, handshake_burst=200)
    addresses.acquire(b"a")
    assert sum(addresses.take_handshake(b"a") == 0 for _ in range(300)) == 200
    wait = addresses.take_handshake(b"a")
    assert wait == pytest.approx(0.05)
    clock.now += wait * 0.9
    assert addresses.take_handshake(b"a") > 0
    clock.now += wait * 0.1
    assert addresses.take_handshake(b"a") == 0
    clock.now += 2
    assert sum(addresses.take_handshake(b"a") == 0 for _ in range(300)) == 40
    clock.now += 3600
    assert sum(addresses.take_handshake(b"a") == 0 for _ in range(300)) == 200


def test_handshakes_count_across_connections() -> None:
    """Who leaves and comes back has no more than who stayed."""
    addresses, _ = table(handshake_rate=1, handshake_burst=3)
    granted = 0
    for _ in range(10):
        addresses.acquire(b"a")
        granted += addresses.take_handshake(b"a") == 0
        addresses.release(b"a")
    assert granted == 3


def test_off_limits_nothing() -> None:
    """Neither handshakes nor failures are limited then."""
    addresses, _ = table(handshake_rate=None, max_failures=None)
    addresses.acquire(b"a")
    assert not any(addresses.take_handshake(b"a") or addresses.record_failure(b"a") for _ in range(1000))
    assert not addresses.bans


def test_failed_logins_ban() -> None:
    """The last of them bans, for the time set; then the count begins again."""
    addresses, clock = table(max_failures=3, failure_window=60.0, ban_time=300.0)
    key = client_key("192.0.2.1")
    addresses.acquire(key)
    assert not addresses.bans
    assert [addresses.record_failure(key) for _ in range(3)] == [0, 0, 3]
    clock.now += 299
    assert addresses.ban_remaining("192.0.2.1") == pytest.approx(1)
    assert addresses.ban_remaining("192.0.2.2") == 0
    clock.now += 1
    assert addresses.ban_remaining("192.0.2.1") == 0
    assert not addresses.bans  # asking costs nothing again
    assert [addresses.record_failure(key) for _ in range(3)] == [0, 0, 3]


def test_failures_are_forgotten_after_the_window() -> None:
    """Mistypings over a long time ban nobody, though they are kept while no connection is open."""
    addresses, clock = table(max_failures=2, failure_window=60.0)
    for _ in range(10):
        addresses.acquire(b"a")
        assert addresses.record_failure(b"a") == 0
        addresses.release(b"a")
        assert len(addresses) == 1
        clock.now += 61
    addresses.acquire(b"a")
    addresses.record_failure(b"a")
    addresses.release(b"a")
    clock.now += 30
    addresses.acquire(b"a")
    assert addresses.record_failure(b"a") == 2


def test_who_did_nothing_lately_takes_no_room() -> None:
    """An address that left with all its handshakes there is not kept."""
    addresses, clock = table(handshake_rate=20)
    addresses.acquire(b"a")
    addresses.take_handshake(b"a")
    clock.now += 1
    addresses.release(b"a")
    assert len(addresses) == 0


def test_a_flood_of_addresses_forgets_neither_connections_nor_bans() -> None:
    """Entries of the flood push out each other; what has a connection or a ban stays, and nobody is refused."""
    addresses, _ = table(table_size=100, max_failures=1, handshake_rate=1, handshake_burst=1, connections=1)
    banned, open_ = client_key("192.0.2.1"), client_key("192.0.2.2")
    addresses.acquire(banned)
    addresses.record_failure(banned)
    addresses.release(banned)
    addresses.acquire(open_)
    addresses.take_handshake(open_)
    for number in range(10_000):
        key = number.to_bytes(4, "big")
        assert addresses.acquire(key)
        assert addresses.take_handshake(key) == 0
        addresses.release(key)
        assert len(addresses) <= 102
    assert addresses.ban_remaining("192.0.2.1")
    assert not addresses.acquire(open_)
    assert addresses.take_handshake(open_) > 0


def test_a_flood_of_bans_lifts_the_one_that_would_end_first() -> None:
    """The table holds so many bans and no more."""
    addresses, clock = table(table_size=16, max_failures=1)
    for number in range(20):
        host = f"192.0.2.{number}"
        addresses.acquire(client_key(host))
        addresses.record_failure(client_key(host))
        addresses.release(client_key(host))
        clock.now += 1
    assert [bool(addresses.ban_remaining(f"192.0.2.{number}")) for number in range(20)] == [False] * 4 + [True] * 16


def test_memory_is_bounded_whatever_comes() -> None:
    """200,000 addresses, each with a handshake and a ban, cost no more than the tables hold."""
    addresses, _ = table(max_failures=1)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(200_000):
        key = number.to_bytes(8, "big")
        addresses.acquire(key)
        addresses.take_handshake(key)
        addresses.record_failure(key)
        addresses.release(key)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(addresses) == 2 * 65_536
    assert grown < 2 * 65_536 * 320, grown / 131_072


def test_connections_are_counted_up_to_a_limit() -> None:
    """A rejected connection is not counted; a count of zero takes no memory."""
    counts = ConnectionCounts()
    assert [counts.acquire("a", 2) for _ in range(3)] == [True, True, False]
    assert counts.acquire("b", 1)
    assert (counts["a"], counts["b"], counts["c"], len(counts)) == (2, 1, 0, 2)
    counts.release("a")
    assert counts.acquire("a", 2)
    counts.release("a")
    counts.release("a")
    counts.release("b")
    assert len(counts) == 0


def rejection(call: Callable[..., None], *arguments: object) -> Rejected:
    """The rejection, which there must be."""
    with pytest.raises(Rejected) as caught:
        call(*arguments)
    return caught.value


def test_one_connection_too_many_is_rejected_with_numbers_and_a_hint() -> None:
    """The refusal names the address, the setting and what to write if it is a proxy."""
    addresses, _ = table(connections=1)
    first, second = ClientSlot(addresses), ClientSlot(addresses)
    first.assign("192.0.2.1")
    end = rejection(second.assign, "192.0.2.1")
    assert end.reason is Reason.RATE_LIMITED
    assert end.detail == (
        "1 connections from 192.0.2.1, and limits.per_address.connections is 1; if that is a proxy, name it in "
        "trusted_proxies of the listener or in limits.per_address.exempt"
    )
    second.release()
    first.release()
    assert len(addresses) == 0


def test_a_changed_address_moves_the_connection() -> None:
    """What a proxy says counts in place of the proxy itself."""
    addresses, _ = table()
    slot = ClientSlot(addresses)
    slot.assign("192.0.2.1")
    slot.assign("2001:db8::1")
    slot.assign("2001:db8::1")
    assert (
        addresses.connection_count(client_key("192.0.2.1")),
        addresses.connection_count(client_key("2001:db8::")),
    ) == (0, 1)
    slot.release()
    slot.release()
    assert addresses.connection_count(client_key("2001:db8::")) == 0


def test_handshakes_are_refused_with_the_seconds_to_wait() -> None:
    """Retry-After is whole seconds, at least one."""
    addresses, _ = table(handshake_rate=1, handshake_burst=1)
    slot = ClientSlot(addresses)
    slot.assign("2001:db8::1")
    slot.take_handshake()
    end = rejection(slot.take_handshake)
    assert (end.reason, end.headers) == (Reason.RATE_LIMITED, (("Retry-After", "1"),))
    assert end.detail.startswith(
        "more than limits.per_address.handshake_rate, 1 a second, after 1 at once, "
        "from the /64 of 2001:db8::1; if that is"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::7", ""])
def test_a_ban_is_one_line_and_ends_what_comes_next(host: str) -> None:
    """The log names address, failures and seconds; the next slot is rejected with the rest of the ban."""
    addresses, _ = table(max_failures=2, ban_time=300.0)
    slot = ClientSlot(addresses)
    slot.assign(host)
    with recording() as records:
        slot.record_failure()
        slot.record_failure()
    (line,) = records.all
    assert line == {
        "level": "warning",
        "event": "address.banned",
        "client_address": host or "unix",
        "failures": 2,
        "ban_seconds": 300.0,
    }
    end = rejection(ClientSlot(addresses).assign, host)
    assert (end.reason, end.headers) == (Reason.BANNED, (("Retry-After", "300"),))
    slot.release()


def test_exempt_addresses_have_no_limits() -> None:
    """By default that is this host, whose clients may be proxies."""
    addresses = ClientTable(
        ClientLimits(connections=1, handshake_rate=1, handshake_burst=1, max_failures=1), lambda: 0.0
    )
    for host in ("127.0.0.1", "127.9.9.9", "::1", ""):
        for _ in range(3):
            slot = ClientSlot(addresses)
            slot.assign(host)
            slot.record_failure()
            slot.take_handshake()
    assert len(addresses) == 0
    assert ClientSlot(addresses).assign("192.0.2.1") is None
    assert rejection(ClientSlot(addresses).assign, "192.0.2.1").reason is Reason.RATE_LIMITED
