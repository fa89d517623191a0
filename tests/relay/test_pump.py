"""The pump's lists and its set of descriptors."""

import socket

import trio
import trio.testing

from tests.relay.fakes import a_pair
from wsbridge.net.wire import SocketWire
from wsbridge.relay.endpoint import RawEndpoint
from wsbridge.relay.pair import Pair
from wsbridge.relay.pump import TURN, Pump
from wsbridge.relay.terms import Terms


async def test_a_pair_is_on_the_ready_list_once():
    """However often it is put there."""
    pump = Pump()
    pair = a_pair()
    pump.later(pair)
    pump.later(pair)

    assert list(pump._ready) == [pair]
    pump.close()


async def test_a_pair_that_is_done_is_not_looked_at():
    """An appointment made on the way out would keep it for nothing."""
    pump = Pump()
    pair = a_pair()
    pair.front.closed = pair.back.closed = True
    pump.look_at(pair, 10.0)

    assert pump._wheel.next_time() is None
    pump.close()


async def test_the_bell_wakes_a_waiting_pump(monkeypatch):
    """Work that comes from outside of it, such as a drain, is done at once."""
    pump = Pump()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)
        nursery.start_soon(pump.keep_time)
        await trio.testing.wait_all_tasks_blocked()
        turned = trio.Event()
        monkeypatch.setattr(Pair, "turn", lambda self: turned.set())
        pump.later(a_pair())
        with trio.fail_after(2):
            await turned.wait()
        nursery.cancel_scope.cancel()
    pump.close()


async def test_an_earlier_look_shortens_the_sleep(autojump_clock):
    """The timer task is asleep for an hour, and is called for now."""
    pump = Pump()
    looked = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.keep_time)
        await trio.testing.wait_all_tasks_blocked()
        pump._clock = trio.current_time
        pair = a_pair(max_age=1.0, ping=None, write=None)
        pair.pump = pump
        pair.began = pair.moved = trio.current_time()
        pump.now = trio.current_time()
        began = trio.current_time()
        pump.look_at(pair, began + 1.0)
        while pair.end is None:
            await trio.sleep(0.1)
        looked.append(trio.current_time() - began)
        nursery.cancel_scope.cancel()
    assert 1.0 <= looked[0] < 1.5
    pump.close()


async def test_a_turn_is_over_in_time_however_many_pairs_are_ready(monkeypatch):
    """Those that are left come first in the next one, so that each has its turn."""
    pump = Pump()
    pairs = [a_pair() for _ in range(50)]
    clock, turned = [0.0], []

    def turn(pair):
        turned.append(pair)
        clock[0] += TURN / 4

    monkeypatch.setattr(Pair, "turn", turn)
    pump._clock = lambda: clock[0]
    for pair in pairs:
        pump.later(pair)
    pump._work()
    first = list(turned)
    for _ in pairs:
        pump._work()

    assert 1 <= len(first) <= 4
    assert turned == pairs
    pump.close()


async def test_a_turn_is_over_in_time_however_many_sockets_have_something(monkeypatch):
    """The clock is read between small batches of events; no event is lost."""
    pump = Pump()
    clock, moved, opened = [0.0], set(), []

    def move(pair, src, dst):
        moved.add(pair)
        clock[0] += TURN / 4

    monkeypatch.setattr(Pair, "move", move)
    pump._clock = lambda: clock[0]
    for _ in range(100):
        sockets = [*socket.socketpair(), *socket.socketpair()]
        opened += sockets
        pump.add(Pair(RawEndpoint(SocketWire(sockets[0])), RawEndpoint(SocketWire(sockets[2])), Terms(), pump))
    pump._work()
    first = len(moved)
    for _ in range(10):
        pump._work()

    assert 1 <= first <= 40
    assert len(moved) == 100
    for sock in opened:
        sock.close()
    pump.close()


async def test_a_side_is_forgotten_before_its_descriptor_can_be_used_again():
    """A new socket with the same number gets only its own events."""
    pump = Pump()
    ours, theirs = socket.socketpair()
    more, _more = socket.socketpair()
    pair = Pair(RawEndpoint(SocketWire(ours)), RawEndpoint(SocketWire(more)), Terms(), pump)
    pump.add(pair)
    fd = ours.fileno()
    assert pump._sides[fd] is pair.front
    pair.abort(pair.front)
    assert fd not in pump._sides
    pair.abort(pair.back)
    assert pump._sides == {}
    for sock in (theirs, _more):
        sock.close()
    pump.close()


async def test_a_descriptor_closed_behind_its_back_is_no_error():
    """A TLS failure may have closed it."""
    pump = Pump()
    ours, theirs = socket.socketpair()
    more, _more = socket.socketpair()
    pair = Pair(RawEndpoint(SocketWire(ours)), RawEndpoint(SocketWire(more)), Terms(), pump)
    pump.add(pair)
    ours.close()
    pair.abort(pair.front)
    pair.abort(pair.back)
    assert pair.done
    for sock in (theirs, _more):
        sock.close()
    pump.close()
