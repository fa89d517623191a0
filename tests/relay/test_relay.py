"""Relays over fake transports: what the contract on real sockets cannot time exactly; default options."""

from __future__ import annotations

import pytest

from tests.relay.fakes import a_pair
from wsbridge.config.limits import Limits, RouteLimits, Timeouts
from wsbridge.net.transport import EOF
from wsbridge.relay.relay import MAX_READS_PER_TURN, RelayOptions

CLOSE_1000 = b"\x88\x82" + bytes(4) + b"\x03\xe8"


def test_a_turn_ends_after_some_reads():
    """Then the pair is put behind the others."""
    pair = a_pair("raw", "raw")
    pair.front.transport.comes(*[b"x"] * (MAX_READS_PER_TURN + 3))
    pair.run_once()

    assert pair.back.transport.out == b"x" * MAX_READS_PER_TURN
    assert pair.loop.later_pairs == [pair]
    pair.run_once()
    assert pair.back.transport.out == b"x" * (MAX_READS_PER_TURN + 3)
    assert pair.front.received_bytes == MAX_READS_PER_TURN + 3


def test_two_close_frames_at_once_do_not_wait_for_each_other():
    """Both sides have bytes pending, and both end."""
    pair = a_pair("ws", "ws")
    for side in (pair.front, pair.back):
        side.transport.room = 0
    pair.front.transport.comes(b"\x82\x81" + bytes(4) + b"x" + CLOSE_1000)
    pair.back.transport.comes(b"\x82\x01y\x88\x02\x03\xe8")
    pair.run_once()
    for side in (pair.front, pair.back):
        side.transport.room = None
    pair.run_once()
    pair.run_once()
    assert pair.done
    assert pair.loop.done == [pair]


def test_closing_is_reported_once():
    """However the ends fall together."""
    pair = a_pair("raw", "raw")
    pair.front.transport.ends(EOF)
    pair.back.transport.ends(EOF)
    pair.run_once()
    assert pair.done
    assert pair.loop.done == [pair]
    assert pair.front.transport.log == pair.back.transport.log == ["fin", "close"]


@pytest.mark.parametrize(
    "name", ["idle", "ping_interval", "ping_timeout", "write", "half_close", "close", "max_lifetime", "lingering"]
)
def test_default_times_are_those_of_the_configuration(name: str) -> None:
    """A relay without options does what a file without settings does."""
    assert getattr(RelayOptions(), name) == getattr(Timeouts(), name)


def test_default_limits_are_those_of_the_configuration() -> None:
    """Bytes of lingering, and the rate of frames that carry nothing."""
    assert (RelayOptions().lingering_bytes, RelayOptions().control_frame_rate) == (
        Limits().lingering_bytes,
        Limits().control_frame_rate,
    )
    assert RelayOptions().bytes_per_second == RouteLimits().bytes_per_second
    assert (RelayOptions().deliver_after_close, RelayOptions().half_close_on_loss) == (False, False)
