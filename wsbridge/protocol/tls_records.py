"""Find the ends of TLS records in a stream of ciphertext (RFC 8446 section 5.1; the same in TLS 1.2)."""

from __future__ import annotations

from typing import Final

from wsbridge.protocol.websocket import Buffer

TLS_RECORD_BYTES: Final = 16384
"""Payload of a full record, in bytes."""

HEADER_BYTES: Final = 5

MAX_CIPHERTEXT_BYTES: Final = TLS_RECORD_BYTES + 2048
"""What follows a header at most, in bytes (RFC 5246 section 6.2.3; TLS 1.3 allows 256 of the 2,048)."""

_CONTENT_TYPES: Final = range(20, 25)


class RecordScanner:
    """Cuts ciphertext into slices of a bounded number of records.

    OpenSSL does not return from reading while records without payload keep coming, so it gets a slice at a time.
    """

    __slots__ = ("_body_left", "_header")

    def __init__(self) -> None:
        self._header = b""  # the start of a header whose rest has not come
        self._body_left = 0  # bytes of the current record still to come

    def next_slice(self, data: Buffer, start: int, max_records: int, max_bytes: int) -> tuple[int, int]:
        """Find the end of the next slice.

        Args:
            data: Ciphertext, all that comes after what the scanner has seen.
            start: Where the slice starts.
            max_records: Records that may end in it.
            max_bytes: Length from which it ends with the record that it is in; a record is never held back.

        Returns:
            Where the slice ends, and how many records end in it. A header that is none of TLS counts as a record: it
            makes OpenSSL fail.
        """
        size = len(data)
        stop = min(size, start + max_bytes)
        at, records = start, 0
        if not self._body_left and not self._header:  # the common case: records that have come whole
            while records < max_records and at < stop and at + HEADER_BYTES <= size:
                end = at + HEADER_BYTES + (data[at + 3] << 8 | data[at + 4])
                if end > size:
                    break
                at = end
                records += 1
        while at < size and records < max_records and (at < stop or not records or self._body_left):
            if self._body_left:
                step = min(self._body_left, size - at)
                at += step
                self._body_left -= step
                records += not self._body_left
            else:
                header = self._header + bytes(data[at : at + HEADER_BYTES - len(self._header)])
                at += len(header) - len(self._header)
                records += self._start_record(header)
        return at, records

    def is_one_record(self, data: Buffer) -> bool:
        """Return whether data that comes next is one record, no more and no less."""
        size = len(data)
        return (
            size > HEADER_BYTES
            and size == HEADER_BYTES + (data[3] << 8 | data[4])
            and not self._body_left
            and not self._header
        )

    def _start_record(self, header: bytes) -> bool:
        """Note a header, or the start of one; return whether OpenSSL has something to do when it gets it."""
        if len(header) < HEADER_BYTES:
            self._header = header
            return False
        self._header = b""
        self._body_left = header[3] << 8 | header[4]
        return not 0 < self._body_left <= MAX_CIPHERTEXT_BYTES or header[0] not in _CONTENT_TYPES
