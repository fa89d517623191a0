"""Whom a service has let in a moment ago."""

from __future__ import annotations

from wsbridge.auth.forward import ForwardCache
from wsbridge.auth.identity import Identity

ALICE = Identity("alice", "forward")
LINES = [(b"cookie", b"sid=s3cret"), (b"origin", b"https://a")]


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        """Give them."""
        return self.now


def test_an_answer_is_kept_for_a_while() -> None:
    """Then it is forgotten, and its place is free."""
    clock = Clock()
    cache = ForwardCache(5.0, 10, clock)
    key = cache.key(LINES)
    assert cache.get(key) is None
    cache.put(key, ALICE)
    clock.now = 4.9
    assert cache.get(cache.key(LINES)) is ALICE
    clock.now = 5.0
    assert cache.get(key) is None
    assert len(cache) == 0


def test_off_keeps_nothing() -> None:
    """Each request is asked about."""
    cache = ForwardCache(None, 10, Clock())
    cache.put(cache.key(LINES), ALICE)
    assert cache.get(cache.key(LINES)) is None
    assert len(cache) == 0


def test_it_is_bounded() -> None:
    """The oldest answer makes room."""
    cache = ForwardCache(5.0, 3, Clock())
    keys = [cache.key([(b"a", b"%d" % at)]) for at in range(5)]
    for key in keys:
        cache.put(key, ALICE)
    assert len(cache) == 3
    assert [cache.get(key) is not None for key in keys] == [False, False, True, True, True]


def test_a_key_tells_all_that_was_sent_apart() -> None:
    """Other values, other names, another order, other bounds between the parts."""
    cache = ForwardCache(5.0, 10, Clock())
    sent = [
        LINES,
        LINES[::-1],
        LINES[:1],
        [],
        [(b"cookie", b"sid=s3cretorigin"), (b"", b"https://a")],
        [(b"cookie", b"sid=s3cret2"), LINES[1]],
        [(b"cookies", b"id=s3cret"), LINES[1]],
    ]
    assert len({cache.key(lines) for lines in sent}) == len(sent)


def test_what_was_sent_cannot_be_read_from_it() -> None:
    """A key is a hash whose own key is of this cache alone."""
    cache = ForwardCache(5.0, 10, Clock())
    key = cache.key(LINES)
    assert len(key) == 32
    assert b"s3cret" not in key
    assert ForwardCache(5.0, 10, Clock()).key(LINES) != key
