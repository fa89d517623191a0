"""Any text as a ticket: a ticket or a sentence, never an exception, and a ticket only by the key."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.test_ticket import KEY, signed
from tests.rejections import result_or_detail
from wsbridge.protocol.ticket import Ticket, decode_ticket, encode_ticket, new_ticket_id

texts = st.text(max_size=20)
times = st.integers(0, 2**53 - 1)
tickets = st.builds(
    Ticket,
    st.builds(new_ticket_id),
    texts,
    times,
    times,
    texts,
    st.dictionaries(texts, texts, max_size=4),
    st.none() | texts,
    st.none() | texts,
    st.none() | times,
)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
alphabet = "1.eyJABCDEFabcdef-_=019 %\n"


@given(st.one_of(st.text(max_size=200), st.text(alphabet, max_size=120), st.builds("1.{}.{}".format, texts, texts)))
def test_any_text_is_judged(text: str) -> None:
    """Nothing that was not signed comes out as a ticket."""
    said = result_or_detail(decode_ticket, text, KEY)

    assert isinstance(said, str)
    assert said.isprintable()
    assert "\n" not in said


@given(st.binary(max_size=300))
def test_any_signed_bytes_are_judged(payload: bytes) -> None:
    """Not even the key makes a ticket of anything."""
    found = result_or_detail(decode_ticket, signed(payload), KEY)

    assert isinstance(found, str | Ticket)
    assert not isinstance(found, Ticket) or encode_ticket(found, KEY) == signed(payload)


@given(st.dictionaries(st.sampled_from([*Ticket.__dataclass_fields__, "x"]), json_like, max_size=10))
def test_any_signed_values_are_judged(values: dict[str, object]) -> None:
    """A payload with the right names and any values is a ticket only if it would be written just so."""
    text = signed(json.dumps(values, separators=(",", ":"), sort_keys=True).encode())
    found = result_or_detail(decode_ticket, text, KEY)
    assert isinstance(found, str) or encode_ticket(found, KEY) == text


@given(tickets, st.integers(0, 4000), st.sampled_from(alphabet))
def test_what_is_written_is_read_and_nothing_near_it(ticket: Ticket, at: int, other: str) -> None:
    """A ticket comes back as it was; with one character changed it is none."""
    try:
        text = encode_ticket(ticket, KEY)
    except ValueError as error:
        assert "the most" in str(error)
        return
    assert result_or_detail(decode_ticket, text, KEY) == ticket
    changed = text[: at % len(text)] + other + text[at % len(text) + 1 :]
    assert changed == text or isinstance(result_or_detail(decode_ticket, changed, KEY), str)
