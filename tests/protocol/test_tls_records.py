"""Where TLS records end, however the bytes are cut."""

from __future__ import annotations

import random

import pytest

from wsbridge.protocol.tls_records import MAX_CIPHERTEXT_BYTES, RecordScanner


def record(size: int, content_type: int = 23) -> bytes:
    """Write a record of a body of so many bytes."""
    return bytes([content_type, 3, 3]) + size.to_bytes(2, "big") + bytes(size)


@pytest.mark.parametrize("seed", range(20))
def test_records_are_counted_where_they_end(seed: int) -> None:
    """Every slice ends within its bounds, and the records of all slices are all records."""
    draw = random.Random(seed)
    records = [record(draw.choice([0, 1, 22, 300, 16406])) for _ in range(200)]
    data = b"".join(records)
    scanner = RecordScanner()
    at = found = 0
    while at < len(data):
        piece = data[at : at + draw.choice([1, 2, 5, 27, 1460, 65536, 524288])]
        at += len(piece)
        start = 0
        while start < len(piece):
            if start == 0 and scanner.is_one_record(piece):
                assert piece in records
            end, count = scanner.next_slice(memoryview(piece), start, 32, 32768)
            assert start < end <= len(piece)
            assert count <= 32
            assert end - start < 32768 + 16411
            start, found = end, found + count
    assert found == len(records)


@pytest.mark.parametrize("header", [b"GET / ", b"\x17\x03\x03\xff\xff", b"\x00\x03\x03\x00\x10"])
def test_a_header_of_something_else_is_shown_to_openssl(header: bytes) -> None:
    """It does not wait for a body that never comes."""
    assert RecordScanner().next_slice(header, 0, 32, 32768)[1] == 1


def test_the_largest_record_is_one() -> None:
    """As TLS 1.2 allows it."""
    data = record(MAX_CIPHERTEXT_BYTES)
    assert RecordScanner().is_one_record(data)
    assert RecordScanner().next_slice(data, 0, 32, 32768) == (len(data), 1)
