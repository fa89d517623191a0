"""The relay loop: ready and later relays, and its file descriptors."""

import socket
import time
from itertools import pairwise

import trio
import trio.testing

from tests.relay.fakes import a_pair
from tests.serving import recording
from wsbridge.net.transport import SocketTransport, reset_socket
from wsbridge.protocol.websocket import WebSocketFraming
from wsbridge.reasons import Reason
from wsbridge.relay import timeouts
from wsbridge.relay.endpoint import RawEndpoint, WebSocketEndpoint
from wsbridge.relay.loop import LATE, TIME_SLICE, RelayLoop
from wsbridge.relay.relay import Relay, RelayOptions


async def test_a_pair_that_is_done_is_not_looked_at():
    """An appointment made on the way out would keep it for nothing."""
    loop = RelayLoop()
    pair = a_pair()
    pair.front.closed = pair.back.closed = True
    loop.schedule(pair, 10.0)

    assert loop._wheel.next_deadline() is None
    loop.close()


async def test_a_turn_is_over_in_time_however_many_pairs_are_ready(monkeypatch):
    """Those that are left come first in the next one, so that each has its turn."""
    loop = RelayLoop()
    pairs = [a_pair() for _ in range(50)]
    clock, turned = [0.0], []

    def turn(pair):
        turned.append(pair)
        clock[0] += TIME_SLICE / 4

    monkeypatch.setattr(Relay, "run_once", turn)
    loop._clock = lambda: clock[0]
    for pair in pairs:
        loop.mark_ready(pair)
    loop._process_events()
    first = list(turned)
    for _ in pairs:
        loop._process_events()

    assert 1 <= len(first) <= 4
    assert turned == pairs
    loop.close()


async def test_a_turn_is_over_in_time_however_many_deadlines_have_come(monkeypatch):
    """Other tasks run in between; a pair that is over by then is not looked at."""
    loop = RelayLoop()
    pairs = [a_pair() for _ in range(50)]
    offset, checked, between, left = [0.0], [], [], []

    def check(pair, _now):
        checked.append(pair)
        offset[0] += TIME_SLICE / 4
        return loop.now + 1000

    monkeypatch.setattr(timeouts, "check_timeouts", check)
    loop._clock = lambda: trio.current_time() + offset[0]
    loop.update_clock()
    for pair in pairs:
        loop.schedule(pair, loop.now)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.run_timers)
        with trio.fail_after(9):
            while len(checked) + 1 < len(pairs):
                await trio.lowlevel.checkpoint()
                between.append(len(checked))
                if checked and not left:
                    left = [next(pair for pair in pairs if pair not in checked)]
                    loop._wheel.cancel(left[0])
        nursery.cancel_scope.cancel()
    assert max(b - a for a, b in pairwise([0, *between])) <= 10
    assert len(set(checked)) == len(pairs) - 1
    loop.close()


async def test_a_turn_is_over_in_time_however_many_sockets_have_something(monkeypatch):
    """The clock is read between small batches of events; no event is lost."""
    loop = RelayLoop()
    clock, moved, opened = [0.0], set(), []

    def move(pair, src, dst):
        moved.add(pair)
        clock[0] += TIME_SLICE / 4

    monkeypatch.setattr(Relay, "transfer", move)
    loop._clock = lambda: clock[0]
    for _ in range(100):
        sockets = [*socket.socketpair(), *socket.socketpair()]
        opened += sockets
        loop.add(
            Relay(
                RawEndpoint(SocketTransport(sockets[0])), RawEndpoint(SocketTransport(sockets[2])), RelayOptions(), loop
            )
        )
    loop._process_events()
    first = len(moved)
    for _ in range(10):
        loop._process_events()

    assert 1 <= first <= 40
    assert len(moved) == 100
    for sock in opened:
        sock.close()
    loop.close()


async def test_a_descriptor_closed_behind_its_back_is_no_error():
    """A TLS failure may have closed it."""
    loop = RelayLoop()
    ours, theirs = socket.socketpair()
    more, _more = socket.socketpair()
    pair = Relay(RawEndpoint(SocketTransport(ours)), RawEndpoint(SocketTransport(more)), RelayOptions(), loop)
    loop.add(pair)
    ours.close()
    pair.abort(pair.front)
    pair.abort(pair.back)
    assert pair.done
    for sock in (theirs, _more):
        sock.close()
    loop.close()


async def test_a_bug_in_what_an_event_reports_ends_that_pair_alone(monkeypatch):
    """The loop goes on, and with it all other pairs."""
    loop = RelayLoop()

    def fail(_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(SocketTransport, "record_socket_error", fail)
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    more, _more = socket.socketpair()
    for sock in (ours, more):
        sock.setblocking(False)
    options = RelayOptions(bytes_per_second=1000)  # limited: a reset that an event reports is asked for
    pair = Relay(RawEndpoint(SocketTransport(ours)), RawEndpoint(SocketTransport(more)), options, loop)
    pair.apply_rate_limits()
    loop.add(pair)
    reset_socket(theirs)
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(ours)
    with recording() as records:
        while not pair.done:
            loop._process_events()
            await trio.lowlevel.checkpoint()
    assert [record["component"] for record in records.of("internal_error")] == ["relay"]
    assert pair.termination.reason is Reason.INTERNAL_ERROR
    _more.close()
    loop.close()


async def test_sockets_are_read_before_deadlines_are_judged_after_a_stall():
    """A process that was stopped finds the pongs there already: no peer is lost for what was not read."""
    loop = RelayLoop()
    loop._clock = trio.current_time
    loop.update_clock()
    ours, theirs = socket.socketpair()
    more, _more = socket.socketpair()
    for sock in (ours, theirs, more, _more):
        sock.setblocking(False)
    front = WebSocketEndpoint(SocketTransport(ours), WebSocketFraming("server"))
    pair = Relay(front, RawEndpoint(SocketTransport(more)), RelayOptions(ping_interval=0.1, ping_timeout=0.3), loop)
    loop.add(pair)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.run_timers)
        with trio.fail_after(9):
            await trio.lowlevel.wait_readable(theirs)
        assert theirs.recv(100) == b"\x89\x00"
        theirs.send(b"\x8a\x80mask")
        time.sleep(LATE + 0.4)
        with trio.move_on_after(0.1):
            await trio.sleep_forever()
        assert pair.termination is None
        assert front.last_received > 0
        nursery.cancel_scope.cancel()
    for side in (pair.front, pair.back):
        pair.abort(side)
    for sock in (theirs, _more):
        sock.close()
    loop.close()


async def test_a_deadline_that_was_moved_forward_is_judged_after_the_sockets_too():
    """A relay that is added while the timers wait for nothing, or for later, does not lose what came in a stall."""
    loop = RelayLoop()
    loop._clock = trio.current_time
    (ours, theirs), (more, _more) = socket.socketpair(), socket.socketpair()
    for sock in (ours, more):
        sock.setblocking(False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.run_timers)
        await trio.testing.wait_all_tasks_blocked()
        loop.update_clock()
        options = RelayOptions(idle=0.3, ping_interval=None)
        pair = Relay(RawEndpoint(SocketTransport(ours)), RawEndpoint(SocketTransport(more)), options, loop)
        loop.add(pair)
        theirs.send(b"in time")
        time.sleep(LATE + 0.4)
        with trio.move_on_after(0.1):
            await trio.sleep_forever()
        assert pair.termination is None
        assert _more.recv(100) == b"in time"
        nursery.cancel_scope.cancel()
    for side in (pair.front, pair.back):
        pair.abort(side)
    for sock in (theirs, _more):
        sock.close()
    loop.close()
