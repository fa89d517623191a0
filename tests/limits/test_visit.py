"""A visit: entering under one address and then another, and what a refused client and the log are told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.limits.test_clients import table
from tests.serving import recording
from wsbridge.config.limits import ClientLimits
from wsbridge.limits.clients import ClientSlot, ClientTable, client_key
from wsbridge.reasons import Reason, Rejected


def told(call: Callable[..., None], *arguments: object) -> Rejected:
    """The rejection, which there must be."""
    with pytest.raises(Rejected) as caught:
        call(*arguments)
    return caught.value


def test_one_too_many_is_told_with_numbers_and_a_hint() -> None:
    """The refusal names the address, the setting and what to write if it is a proxy."""
    addresses, _ = table(connections=1)
    first, second = ClientSlot(addresses), ClientSlot(addresses)
    first.assign("192.0.2.1")
    end = told(second.assign, "192.0.2.1")
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
    visit = ClientSlot(addresses)
    visit.assign("192.0.2.1")
    visit.assign("2001:db8::1")
    visit.assign("2001:db8::1")
    assert (
        addresses.connection_count(client_key("192.0.2.1")),
        addresses.connection_count(client_key("2001:db8::")),
    ) == (0, 1)
    visit.release()
    visit.release()
    assert addresses.connection_count(client_key("2001:db8::")) == 0


def test_handshakes_are_refused_with_the_seconds_to_wait() -> None:
    """Retry-After is whole seconds, at least one."""
    addresses, _ = table(handshake_rate=1, handshake_burst=1)
    visit = ClientSlot(addresses)
    visit.assign("2001:db8::1")
    visit.take_handshake()
    end = told(visit.take_handshake)
    assert (end.reason, end.headers) == (Reason.RATE_LIMITED, (("Retry-After", "1"),))
    assert end.detail.startswith(
        "more than limits.per_address.handshake_rate, 1 a second, after 1 at once, "
        "from the /64 of 2001:db8::1; if that is"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::7", ""])
def test_a_ban_is_one_line_and_ends_what_comes_next(host: str) -> None:
    """The log names address, failures and seconds; the next visit is told how long the ban lasts."""
    addresses, _ = table(max_failures=2, ban_time=300.0)
    visit = ClientSlot(addresses)
    visit.assign(host)
    with recording() as records:
        visit.record_failure()
        visit.record_failure()
    (line,) = records.all
    assert line == {
        "level": "warning",
        "event": "address.banned",
        "client_address": host or "unix",
        "failures": 2,
        "ban_seconds": 300.0,
    }
    end = told(ClientSlot(addresses).assign, host)
    assert (end.reason, end.headers) == (Reason.BANNED, (("Retry-After", "300"),))
    visit.release()


def test_exempt_addresses_have_no_limits() -> None:
    """By default that is this host, whose clients may be proxies."""
    addresses = ClientTable(
        ClientLimits(connections=1, handshake_rate=1, handshake_burst=1, max_failures=1), lambda: 0.0
    )
    for host in ("127.0.0.1", "127.9.9.9", "::1", ""):
        for _ in range(3):
            visit = ClientSlot(addresses)
            visit.assign(host)
            visit.record_failure()
            visit.take_handshake()
    assert len(addresses) == 0
    assert ClientSlot(addresses).assign("192.0.2.1") is None
    assert told(ClientSlot(addresses).assign, "192.0.2.1").reason is Reason.RATE_LIMITED
