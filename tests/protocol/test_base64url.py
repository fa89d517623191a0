"""Base64url without padding: one encoding for each value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbridge.protocol.uri import decode_base64url, encode_base64url


@given(st.binary(max_size=40))
def test_what_is_encoded_is_decoded(data: bytes) -> None:
    """All bytes survive, without padding and without the characters of plain base64."""
    text = encode_base64url(data)
    assert not set(text) & set("+/=")
    assert decode_base64url(text) == data


@pytest.mark.parametrize("text", ["A", "YQ==", "YR", "-_8=", "+/8", "Y Q", "YQ\n", "YQ.", "Ỳ"])
def test_other_spellings_are_rejected(text: str) -> None:
    """Padding, unused bits, the alphabet of plain base64, white space and other characters."""
    with pytest.raises(ValueError, match=r"."):
        decode_base64url(text)


@given(st.text(st.sampled_from("AQRYZaz09-_=+/ \n"), max_size=8))
def test_each_value_has_one_encoding(text: str) -> None:
    """What decodes encodes to the same text."""
    try:
        data = decode_base64url(text)
    except ValueError:
        return
    assert encode_base64url(data) == text
