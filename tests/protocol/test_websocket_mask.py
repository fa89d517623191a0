"""Masking: both ways of XOR, and fresh keys."""

import pytest

from wsbridge.protocol import websocket
from wsbridge.protocol.websocket import MaskKeySource, apply_mask, apply_mask_in_python


def slowly(data, key):
    """The definition in RFC 6455 section 5.3, byte by byte."""
    return bytes(value ^ key[at % 4] for at, value in enumerate(data))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 125, 1535, 1536, 1537, 1538, 1539, 4096])
@pytest.mark.parametrize("function", [apply_mask, apply_mask_in_python])
def test_every_size_is_masked_as_the_rfc_says(function, size):
    """On both sides of the size from which Python translates in strides."""
    data = bytes(at * 7 & 0xFF for at in range(size))
    key = b"\x01\x80\xff\x00"

    assert function(data, key) == slowly(data, key)
    assert function(function(data, key), key) == data


@pytest.mark.parametrize("size", [10, 5000])
@pytest.mark.parametrize("function", [apply_mask, apply_mask_in_python])
def test_a_view_is_taken_as_well(function, size):
    """The relay masks parts of what it read without copying them first."""
    data = bytes(range(256)) * 20

    assert function(memoryview(data)[3 : 3 + size], b"abcd") == slowly(data[3 : 3 + size], b"abcd")


def test_the_c_function_is_used_where_it_is_installed():
    """The `websockets` library is a dependency for this one function."""
    assert websocket.HAS_NATIVE_MASK
    assert apply_mask is not apply_mask_in_python


def test_keys_are_four_bytes_and_fresh():
    """Over several fillings of the pool."""
    draw = MaskKeySource().next_key
    keys = [draw() for _ in range(3000)]

    assert all(len(key) == 4 for key in keys)
    assert len(set(keys)) > 2990
