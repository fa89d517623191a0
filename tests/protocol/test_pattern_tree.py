"""The first of many patterns that matches, against trying one after the other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsbridge.protocol.pattern_tree import PatternIndex
from wsbridge.protocol.uri import HostPatterns, PathPattern

Pair = tuple[HostPatterns | None, PathPattern | None]

LABELS = st.sampled_from(["a", "b", "ab"])
HOSTS = st.builds(lambda labels: ".".join([*labels, "org"]), st.lists(LABELS, max_size=2))
HOST_TEXTS = HOSTS | st.builds(lambda first, host: f"{first}.{host}", st.sampled_from(["*", "{x}"]), HOSTS)
HOST_PATTERNS = st.none() | st.lists(HOST_TEXTS, min_size=1, max_size=2).map(HostPatterns)
SEGMENTS = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=3)
NAMED = st.lists(st.sampled_from(["a", "b", "ab", "{}"]), max_size=3)


def _pattern(segments: list[str], end: str) -> PathPattern:
    names = iter("xyz")
    named = [f"{{{next(names)}}}" if segment == "{}" else segment for segment in segments]
    return PathPattern("/" + "/".join([*named, *end.split()]) + ("/" if end == " " and named else ""))


PATH_PATTERNS = st.none() | st.builds(_pattern, NAMED, st.sampled_from(["", "*", " "]))
PATHS = st.just("*") | st.builds(
    lambda segments, slash: "/" + "/".join(segments) + ("/" if slash and segments else ""), SEGMENTS, st.booleans()
)
PAIRS = st.lists(st.tuples(HOST_PATTERNS, PATH_PATTERNS), max_size=8)


def _matches(pair: Pair, host: str, path: str) -> bool:
    hosts, pattern = pair
    return (hosts is None or hosts.matches(host)) and (pattern is None or pattern.matches(path))


def _index(pairs: list[Pair]) -> PatternIndex:
    index = PatternIndex()
    for position, (hosts, path) in enumerate(pairs):
        index.add(hosts, path, position)
    return index


@given(pairs=PAIRS, host=HOSTS | st.sampled_from(["", "[::1]", "127.0.0.1"]), path=PATHS)
def test_the_first_match_wins(pairs: list[Pair], host: str, path: str) -> None:
    """The index finds what trying each pair in order finds."""
    first = next((position for position, pair in enumerate(pairs) if _matches(pair, host, path)), None)
    assert _index(pairs).first_match(host, path) == first


@given(
    pairs=PAIRS, narrow=st.tuples(HOST_PATTERNS, PATH_PATTERNS), host=HOSTS, path=PATHS.filter(lambda path: path != "*")
)
def test_what_covers_a_pattern_matches_all_of_it(pairs: list[Pair], narrow: Pair, host: str, path: str) -> None:
    """Whatever a pattern matches is also matched by those that cover it, and every pattern covers itself."""
    hosts, pattern = narrow
    parts = (None,) if hosts is None else hosts.parts
    covers = [_index(pairs).first_cover(each, pattern) for each in parts]
    if _matches(narrow, host, path) and None not in covers:
        assert any(_matches(pairs[cover], host, path) for cover in covers if cover is not None)
    own = _index([narrow])
    assert [own.first_cover(each, pattern) for each in parts] == [0] * len(parts)


def test_no_pattern_is_tried_that_does_not_match() -> None:
    """Looking up a route visits the segments of the request, however many routes there are."""
    index = PatternIndex()
    for number in range(20_000):
        index.add(HostPatterns([f"h{number}.example.org"]), PathPattern(f"/svc/{number}"), number)
    visited = 0

    class Segment(str):
        def __hash__(self) -> int:
            nonlocal visited
            visited += 1
            return super().__hash__()

    class Text(str):
        def split(self, *args: object) -> list[str]:
            return [Segment(part) for part in super().split(*args)]

    assert index.first_match(Text("h19999.example.org"), Text("/svc/19999")) == 19_999
    assert visited == 3 + 2 + 1  # and the first segment once more, among the routes of every host
