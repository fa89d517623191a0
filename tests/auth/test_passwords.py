"""Verifying passwords without holding up anything else."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.rejections import async_outcome
from wsbridge.auth import passwords as module
from wsbridge.auth.passwords import PasswordChecker, PasswordHash
from wsbridge.reasons import Reason, Rejected


@dataclass
class Counting:
    """A hash that counts how often it is verified, and can be made to wait."""

    right: bytes = b"right"
    text: str = "$counting$"
    verified: int = 0
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def verify(self, password: bytes) -> bool:
        """Count."""
        self.verified += 1
        self.begun.release()
        assert self.gate.wait(10)
        return password == self.right


def hashed(**facts: object) -> tuple[PasswordHash, Counting]:
    """Give a hash, as itself and as what counts."""
    counting = Counting(**facts)
    return counting, counting


async def test_a_right_pair_is_kept_for_a_while(autojump_clock: MockClock) -> None:
    """Within its time it is not verified again; after it, it is."""
    stored, counting = hashed()
    passwords = PasswordChecker(1)
    for _ in range(3):
        assert await passwords.verify("alice", b"right", stored, 60)
    assert counting.verified == 1
    await trio.sleep(60)
    assert await passwords.verify("alice", b"right", stored, 60)
    assert counting.verified == 2


async def test_nothing_is_kept_where_nothing_shall_be() -> None:
    """With 0 every password is verified, whatever others keep of the same pair."""
    stored, counting = hashed()
    passwords = PasswordChecker(1)
    for keep in (0, 60, 0):
        assert await passwords.verify("alice", b"right", stored, keep)
    assert counting.verified == 3


async def test_a_wrong_pair_is_never_kept() -> None:
    """Each guess costs."""
    stored, counting = hashed()
    passwords = PasswordChecker(1)
    for _ in range(3):
        assert await passwords.verify("alice", b"wrong", stored, 60) is False
    assert counting.verified == 3


async def test_what_is_kept_holds_for_name_password_and_hash() -> None:
    """Another name, another password or a changed hash is verified again."""
    stored, _ = hashed()
    other, _ = hashed(text="$other$", right=b"else")
    passwords = PasswordChecker(1)
    assert await passwords.verify("alice", b"right", stored, 60)
    assert await passwords.verify("alice", b"righ", stored, 60) is False
    assert await passwords.verify("alice", b"right", other, 60) is False
    bob, counting = hashed()
    assert await passwords.verify("bob", b"right", bob, 60)
    assert counting.verified == 1


async def test_those_who_show_the_same_at_a_time_cost_one() -> None:
    """A page with dozens of files is one hash."""
    stored, counting = hashed()
    passwords = PasswordChecker(4, max_queue=0)
    counting.gate.clear()
    answers = []

    async def ask() -> None:
        answers.append(await passwords.verify("alice", b"right", stored, 0))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            counting.gate.set()
    assert answers == [True] * 30
    assert counting.verified == 1


async def test_the_first_of_them_may_leave() -> None:
    """The others have it verified for themselves then."""
    stored, counting = hashed()
    passwords = PasswordChecker(4)
    counting.gate.clear()
    answers = []
    leaving = trio.CancelScope()

    async def ask() -> None:
        answers.append(await passwords.verify("alice", b"right", stored, 60))

    async def ask_and_leave() -> None:
        with leaving:
            await ask()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_and_leave)
            assert await trio.to_thread.run_sync(counting.begun.acquire, True, 10)
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            leaving.cancel()
            await wait_all_tasks_blocked()
            counting.gate.set()
    assert answers == [True]
    assert counting.verified == 2


async def test_who_may_wait() -> None:
    """One is verified, two wait, the fourth is rejected at once; cached passwords do not wait."""
    passwords = PasswordChecker(1, max_queue=2)
    known, _ = hashed(text="$known$")
    assert await passwords.verify("known", b"right", known, 60)
    stored, counting = hashed()
    counting.gate.clear()
    answers: dict[str, bool | Reason] = {}

    async def ask(name: str) -> None:
        result = await async_outcome(passwords.verify(name, b"right", stored, 0))
        answers[name] = result.reason if isinstance(result, Rejected) else result

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for name in ("first", "second", "third", "fourth"):
                nursery.start_soon(ask, name)
                await wait_all_tasks_blocked()
            assert answers == {"fourth": Reason.OVERLOAD}
            assert await passwords.verify("known", b"right", known, 60)
            counting.gate.set()
    assert answers == {"first": True, "second": True, "third": True, "fourth": Reason.OVERLOAD}


@dataclass
class Gate:
    """The limits on one address."""

    key: bytes | None
    closed: bool = False

    def is_banned(self) -> bool:
        """As the test has it."""
        return self.closed

    def banned(self) -> Rejected:
        """See `ClientGate.banned`."""
        return Rejected(Reason.BANNED)

    async def begin_guess(self, max_waiting: int | None = None) -> bool:
        """Allow as many as there are."""
        return True


async def test_an_address_has_a_few_waiting_places() -> None:
    """It cannot fill the queue alone; exempt addresses, such as a proxy's, have no bound of their own."""
    passwords = PasswordChecker(1, max_queue=64, max_queue_per_address=2)
    stored, counting = hashed()
    counting.gate.clear()
    outcomes: list[bool | Reason] = []

    async def ask(name: str, gate: Gate) -> None:
        result = await async_outcome(passwords.verify(name, b"right", stored, 0, gate))
        outcomes.append(result.reason if isinstance(result, Rejected) else result)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(ask, f"one{number}", Gate(b"one"))
            await wait_all_tasks_blocked()
            assert outcomes == [Reason.RATE_LIMITED] * 2
            for number in range(4):
                nursery.start_soon(ask, f"proxy{number}", Gate(None))
            nursery.start_soon(ask, "other", Gate(b"other"))
            await wait_all_tasks_blocked()
            assert len(outcomes) == 2
            counting.gate.set()
    assert outcomes[2:] == [True] * 7
    assert await passwords.verify("one", b"right", stored, 0, Gate(b"one"))


async def test_who_was_banned_while_waiting_is_not_verified() -> None:
    """It is asked again when a thread is free."""
    passwords = PasswordChecker(1)
    stored, counting = hashed()
    counting.gate.clear()
    gate, outcomes = Gate(b"one"), []

    async def ask(name: str) -> None:
        result = await async_outcome(passwords.verify(name, b"right", stored, 0, gate))
        outcomes.append(result.reason if isinstance(result, Rejected) else result)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "first")
            assert await trio.to_thread.run_sync(counting.begun.acquire, True, 10)
            nursery.start_soon(ask, "second")
            await wait_all_tasks_blocked()
            gate.closed = True
            counting.gate.set()
    assert outcomes == [True, Reason.BANNED]
    assert counting.verified == 1


async def test_without_a_thread_it_is_overload(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the limit of tasks of the unit: the client may come back, and nothing is held for it."""

    async def fail(*_: object, **_options: object) -> None:
        raise RuntimeError("can't start new thread")

    stored, _ = hashed()
    passwords = PasswordChecker(1)
    with monkeypatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", fail)
        outcome = await async_outcome(passwords.verify("alice", b"right", stored, 60))
    assert isinstance(outcome, Rejected)
    assert (outcome.reason, outcome.detail) == (Reason.OVERLOAD, "can't start new thread")
    assert await passwords.verify("alice", b"right", stored, 60)


async def test_the_loop_goes_on() -> None:
    """While a core is busy with a password, everything else is served; an end does not wait for it."""
    stored, counting = hashed()
    counting.gate.clear()
    with trio.fail_after(10):
        with trio.move_on_after(0.05) as scope:
            await PasswordChecker(1).verify("alice", b"right", stored, 60)
        assert scope.cancelled_caught
    counting.gate.set()


async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    """Past the bound the oldest is forgotten, and all after an hour."""
    monkeypatch.setattr(module, "MAX_CACHED_PASSWORDS", 3)
    passwords = PasswordChecker(1)
    stored, counting = hashed()
    for number in range(5):
        assert await passwords.verify(f"user{number}", b"right", stored, 60)
    assert len(passwords._verified) == 3
    assert await passwords.verify("user4", b"right", stored, 60)
    assert counting.verified == 5
    assert await passwords.verify("user0", b"right", stored, 60)
    assert counting.verified == 6
    await trio.sleep(module.MAX_PASSWORD_CACHE_SECONDS + 1)
    assert await passwords.verify("user0", b"right", stored, 60)
    assert len(passwords._verified) == 1


def test_a_pick_is_steady_and_of_this_process_alone() -> None:
    """The same name gets the same number, other processes give others, and all numbers come up."""
    one, other = PasswordChecker(1), PasswordChecker(1)
    names = [f"user{number}" for number in range(100)]

    assert [one.stable_index(name, 7) for name in names] == [one.stable_index(name, 7) for name in names]
    assert [one.stable_index(name, 7) for name in names] != [other.stable_index(name, 7) for name in names]
    assert {one.stable_index(name, 7) for name in names} == set(range(7))


def test_as_many_threads_as_cores() -> None:
    """Left out, the cores that this process may use are counted."""
    assert PasswordChecker().threads == len(os.sched_getaffinity(0))
    assert (PasswordChecker(3, max_queue=9).threads, PasswordChecker(3, max_queue=9).max_queue) == (3, 9)
