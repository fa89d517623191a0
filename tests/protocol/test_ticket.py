"""Tickets as text: what is written is read, and nothing else is."""

from __future__ import annotations

import base64
import hmac
import json
from dataclasses import replace

import pytest

from tests.rejections import result_or_detail
from wsbridge.protocol.ticket import MAX_TICKET_CHARS, Ticket, decode_ticket, encode_ticket, new_ticket_id

KEY = b"k" * 32
PLAIN = Ticket("A" * 22, "vnc", 1_000, 31_000)
FULL = replace(
    PLAIN,
    name="älice",
    claims={"role": "admin", "a": ""},
    address="2001:db8::1",
    target="tcp://10.0.0.5:5900",
    until=99_000,
)


def signed(payload: bytes, key: bytes = KEY, version: str = "1") -> str:
    """Sign any payload."""
    text = f"{version}.{base64.urlsafe_b64encode(payload).decode().rstrip('=')}"
    digest = hmac.digest(key, text.encode(), "sha256")
    return f"{text}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


@pytest.mark.parametrize("ticket", [PLAIN, FULL], ids=["plain", "full"])
def test_what_is_written_is_read(ticket: Ticket) -> None:
    """Each value comes back as it was, from a text that a query can carry as it is."""
    text = encode_ticket(ticket, KEY)

    assert result_or_detail(decode_ticket, text, KEY) == ticket
    assert text.replace("-", "").replace("_", "").replace(".", "").isalnum()


def test_its_form_is_the_one_that_is_documented() -> None:
    """Another program with the key can make one."""
    payload = b'{"expires":31000,"id":"AAAAAAAAAAAAAAAAAAAAAA","issued":1000,"name":"","route":"vnc"}'

    assert encode_ticket(PLAIN, KEY) == signed(payload)


def test_every_single_character_counts() -> None:
    """A ticket with any one character changed, left out or added is none."""
    text = encode_ticket(FULL, KEY)
    for at in range(len(text)):
        other = "A" if text[at] != "A" else "B"
        for changed in (text[:at] + other + text[at + 1 :], text[:at] + text[at + 1 :], text[:at] + other + text[at:]):
            assert isinstance(result_or_detail(decode_ticket, changed, KEY), str)


def test_another_key_signs_nothing() -> None:
    """What is signed with another key is refused, and the sentence shows nothing of it."""
    said = result_or_detail(decode_ticket, encode_ticket(FULL, b"x" * 32), KEY)

    assert said == "the ticket is not signed with the key of this route"


@pytest.mark.parametrize(
    "text", ["", "1", "1.", "1..", "1.e30.", "1.e30." + "A" * 43, "1.e30=." + "A" * 43, "\ud800", "1.é." + "A" * 43]
)
def test_other_texts_are_none(text: str) -> None:
    """Whatever is no ticket is refused with a sentence."""
    assert isinstance(result_or_detail(decode_ticket, text, KEY), str)


def test_a_longer_text_is_not_looked_at() -> None:
    """Beyond the bound, not even the signature is computed; nothing that long is written."""
    assert (
        result_or_detail(decode_ticket, "1." + "A" * MAX_TICKET_CHARS, KEY)
        == f"the ticket has {MAX_TICKET_CHARS + 2} characters, and the maximum is {MAX_TICKET_CHARS}"
    )
    with pytest.raises(ValueError, match=f"and the maximum is {MAX_TICKET_CHARS}"):
        encode_ticket(replace(PLAIN, name="x" * MAX_TICKET_CHARS), KEY)


def written(**changes: object) -> bytes:
    """Write a payload with other values than it should have."""
    values = {"id": "A" * 22, "route": "vnc", "issued": 1000, "expires": 31000, "name": "", **changes}
    return json.dumps(values, separators=(",", ":"), sort_keys=True).encode()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 2900,
        b'{"a":' * 500,
        written(extra="x"),
        written(id="short"),
        written(id=5),
        written(route=None),
        written(issued=True),
        written(issued=-1),
        written(issued=1.5),
        written(issued="1000"),
        written(expires=2**60),
        written(until=None),
        written(claims={}),
        written(claims={"a": 1}),
        written(claims=["a"]),
        written(claims="a"),
        written(name="\ud800"),
        written(address=7),
        written(target=["tcp://a:1"]),
        written().replace(b",", b", "),
        written().replace(b'"name":""', b'"name":"","name":""'),
    ],
)
def test_a_signature_alone_makes_no_ticket(payload: bytes) -> None:
    """What is signed must be just what is written here, of the right kinds, without a key more or a space more."""
    assert result_or_detail(decode_ticket, signed(written()), KEY) == PLAIN
    assert result_or_detail(decode_ticket, signed(payload), KEY) in (
        "the ticket is signed, but not one of this version",
        "the ticket is malformed",
    )


def test_another_version_is_none() -> None:
    """The version is signed along, and only this one is read."""
    assert result_or_detail(decode_ticket, signed(written(), version="2"), KEY) == "the ticket is malformed"


@pytest.mark.parametrize("broken", [{"name": "\ud800"}, {"id": "short"}, {"issued": 1.5}, {"claims": {"a": 1}}])
def test_what_could_not_be_read_is_not_written(broken: dict[str, object]) -> None:
    """Values that no ticket can hold are an error where one is made, without a word of them."""
    with pytest.raises(ValueError, match="a value of the ticket") as caught:
        encode_ticket(replace(PLAIN, **broken), KEY)

    assert "d800" not in str(caught.value)


def test_ids_are_never_the_same() -> None:
    """128 random bits each."""
    ids = {new_ticket_id() for _ in range(1000)}

    assert len(ids) == 1000
    assert {len(base64.urlsafe_b64decode(one + "==")) for one in ids} == {16}
