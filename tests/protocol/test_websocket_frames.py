"""Frame headers and close bodies, by the letter of RFC 6455."""

import pytest

from wsbridge.protocol.websocket import (
    check_close_body,
    decode_close_body,
    encode_close_body,
    encode_header,
    is_valid_close_code,
)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "8200"),
        (125, "827d"),
        (126, "827e007e"),
        (65535, "827effff"),
        (65536, "827f0000000000010000"),
        (2**63 - 1, "827f7fffffffffffffff"),
    ],
)
def test_a_length_is_written_in_the_shortest_way(size, expected):
    """Up to 125 bytes in one byte, up to 65,535 in two more, else in eight more."""
    assert encode_header(0x82, size).hex() == expected


def test_the_mask_bit_is_set_where_a_key_follows():
    """In each of the three forms."""
    assert encode_header(0x82, 5, 0x80).hex() == "8285"
    assert encode_header(0x82, 126, 0x80).hex() == "82fe007e"
    assert encode_header(0x82, 65536, 0x80).hex() == "82ff0000000000010000"


def test_close_codes_that_may_be_sent():
    """1000 to 1003, 1007 to 1014, 3000 to 4999, and no other of 65,536."""
    allowed = {code for code in range(65536) if is_valid_close_code(code)}

    assert allowed == {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


def test_a_close_body_holds_code_and_text():
    """The code in two bytes, then the text; without a code it is empty, and both are read back."""
    assert encode_close_body(1000, "bye") == b"\x03\xe8bye"
    assert decode_close_body(b"\x03\xe8bye") == (1000, "bye")
    assert encode_close_body(None, "not told") == b""
    assert decode_close_body(b"") == (None, "")


@pytest.mark.parametrize("text", ["x" * 200, "ä" * 100, "x" + "ä" * 100, "€" * 60, "x" + "😀" * 40])
def test_the_text_is_cut_at_123_bytes_on_a_character_boundary(text):
    """The body fits into a control frame, and what is left of the text is a beginning of it."""
    body = encode_close_body(1000, text)

    assert len(body) <= 125
    assert text.startswith(body[2:].decode())
    assert len(body) > 125 - 4


def test_a_text_that_cannot_be_encoded_still_gives_a_valid_body():
    """A lone surrogate, as Python makes of bytes that are not UTF-8, does no harm."""
    assert check_close_body(encode_close_body(1011, "a\udcffb")) is None


@pytest.mark.parametrize("body", [b"", b"\x03\xe8", b"\x03\xe8" + "ü".encode(), b"\x0b\xb8", b"\x13\x87"])
def test_good_close_bodies(body):
    """Empty, a code alone, a code with text."""
    assert check_close_body(body) is None


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
def test_codes_that_may_not_be_sent_are_named(code):
    """It is no fault of the text, and the sentence has the number."""
    in_text, detail = check_close_body(code.to_bytes(2, "big"))

    assert not in_text
    assert str(code) in detail


def test_a_body_of_one_byte_is_a_fault():
    """A code has two bytes."""
    assert check_close_body(b"\x03") == (False, "close frame with a body of 1 byte")


def test_a_reason_that_is_not_utf_8_is_a_fault_of_the_text():
    """So that it can be answered with 1007."""
    assert check_close_body(b"\x03\xe8\xff") == (True, "close reason is not UTF-8")
