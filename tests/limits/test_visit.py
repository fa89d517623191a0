"""A visit: entering under one address and then another, and what a refused client and the log are told."""

from __future__ import annotations

import pytest

from tests.limits.test_addresses import table
from tests.serving import recording
from wsbridge.config.address_limits import AddressLimits
from wsbridge.limits.addresses import Addresses, key_of
from wsbridge.limits.visit import Visit
from wsbridge.reasons import End, Reason


def told(end: End | None) -> End:
    """The end, which there must be."""
    assert end is not None
    return end


def test_one_too_many_is_told_with_numbers_and_a_hint() -> None:
    """The refusal names the address, the setting and what to write if it is a proxy."""
    addresses, _ = table(connections=1)
    first, second = Visit(addresses), Visit(addresses)
    assert first.comes_from("192.0.2.1") is None
    end = told(second.comes_from("192.0.2.1"))
    assert end.reason is Reason.RATE
    assert end.detail == (
        "1 connections from 192.0.2.1, and limits.address.connections is 1; if that is a proxy, name it in "
        "trusted_proxies of the listener or in limits.address.exempt"
    )
    second.leave()
    first.leave()
    assert len(addresses) == 0


def test_a_changed_address_moves_the_connection() -> None:
    """What a proxy says counts in place of the proxy itself."""
    addresses, _ = table()
    visit = Visit(addresses)
    visit.comes_from("192.0.2.1")
    visit.comes_from("2001:db8::1")
    visit.comes_from("2001:db8::1")
    assert (addresses.count(key_of("192.0.2.1")), addresses.count(key_of("2001:db8::"))) == (0, 1)
    visit.leave()
    visit.leave()
    assert addresses.count(key_of("2001:db8::")) == 0


def test_handshakes_are_refused_with_the_seconds_to_wait() -> None:
    """Retry-After is whole seconds, at least one."""
    addresses, _ = table(handshakes=1, burst=1)
    visit = Visit(addresses)
    visit.comes_from("2001:db8::1")
    assert visit.shake_hands() is None
    end = told(visit.shake_hands())
    assert (end.reason, end.headers) == (Reason.RATE, (("Retry-After", "1"),))
    assert end.detail.startswith(
        "more than limits.address.handshakes, 1 a second, after 1 at once, from the /64 of 2001:db8::1; if that is"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::7", ""])
def test_a_ban_is_one_line_and_ends_what_comes_next(host: str) -> None:
    """The log names address, failures and seconds; the next visit is told how long the ban lasts."""
    addresses, _ = table(failures=2, ban=300.0)
    visit = Visit(addresses)
    visit.comes_from(host)
    with recording() as records:
        visit.fail()
        visit.fail()
    (line,) = records.all
    assert line == {
        "level": "warning",
        "event": "address.banned",
        "address": host or "unix",
        "failures": 2,
        "seconds": 300.0,
    }
    end = told(Visit(addresses).comes_from(host))
    assert (end.reason, end.headers) == (Reason.BANNED, (("Retry-After", "300"),))
    visit.leave()


def test_exempt_addresses_have_no_limits() -> None:
    """By default that is this host, whose clients may be proxies."""
    addresses = Addresses(AddressLimits(connections=1, handshakes=1, burst=1, failures=1), lambda: 0.0)
    for host in ("127.0.0.1", "127.9.9.9", "::1", ""):
        for _ in range(3):
            visit = Visit(addresses)
            assert visit.comes_from(host) is None
            visit.fail()
            assert visit.shake_hands() is None
    assert len(addresses) == 0
    assert Visit(addresses).comes_from("192.0.2.1") is None
    assert told(Visit(addresses).comes_from("192.0.2.1")).reason is Reason.RATE
