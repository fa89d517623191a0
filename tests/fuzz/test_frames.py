"""Fuzz: frames cut anywhere give the same, any bytes give chunks or a violation, and what is written is read back."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from wsbridge.protocol.websocket import WebSocketFraming, apply_mask, apply_mask_in_python, encode_header
from wsbridge.reasons import Reason

roles = st.sampled_from(["server", "client"])
texts = st.sampled_from(["accept", "accept", "reject"])
payloads = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=10).map(str.encode),
    st.sampled_from([b"", b"\x03\xe8", b"\x03", b"\x00\x00bye", bytes(125), bytes(126), bytes(200), b"\xe2\x82"]),
)
firsts = st.one_of(
    st.sampled_from([0x82] * 6 + [0x02, 0x80, 0x00, 0x00, 0x81, 0x01, 0x89, 0x8A, 0x88]), st.integers(0, 255)
)


@st.composite
def frames(draw, role):
    """Bytes that look like frames, most of them good."""
    out = b""
    for _ in range(draw(st.integers(0, 8))):
        payload = draw(payloads)
        masked = (role == "server") != (draw(st.integers(0, 30)) == 30)
        key = draw(st.binary(min_size=4, max_size=4))
        first = draw(firsts)
        if masked:
            out += encode_header(first, len(payload), 0x80) + key + apply_mask_in_python(payload, key)
        else:
            out += encode_header(first, len(payload)) + payload
    return out


inputs = roles.flatmap(
    lambda role: st.tuples(st.just(role), st.one_of(frames(role), frames(role), st.binary(max_size=60)))
)


def fed(role, text, pieces, **bounds):
    """What a framing gives for input in pieces: messages' marks and bytes as one stream, controls, the violation."""
    framing = WebSocketFraming(role, text)
    stream, controls, violation = [], [], None
    for data in pieces:
        while True:
            used, chunks, marks, more, found = framing.decode(data, **bounds)
            assert 0 <= used <= len(data)
            for mark, chunk in zip(marks or [], chunks, strict=True):
                stream.append((mark & 0x0F, b"", 0))
                stream += [(0, chunk[at : at + 1], 0) for at in range(len(chunk))]
                stream.append((0, b"", mark >> 7))
            controls += more or []
            assert violation is None or (found is None and not chunks and not more)
            violation = violation or found
            if used == len(data):
                break
            data = data[used:]  # noqa: PLW2901  what a call leaves is given to the next
    return [one for one in stream if one != (0, b"", 0)], controls, violation, framing.control_frame_count


def before_the_end(outcome):
    """An outcome without the payload of the frame with bad text: how much of it is seen depends on cuts."""
    stream, controls, violation, chaff = outcome
    if violation is not None and violation.reason is Reason.INVALID_UTF8:
        return controls, violation.reason, chaff
    return stream, controls, violation, chaff


@given(inputs, texts, st.lists(st.integers(0, 200), max_size=8), st.integers(1, 9), st.integers(1, 3))
def test_cuts_change_nothing(given_input, text, cuts, room, work):
    """Whole, byte by byte, cut anywhere, and with little room: the same messages, controls and violation."""
    role, data = given_input
    whole = before_the_end(fed(role, text, [data]))
    at = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]

    assert before_the_end(fed(role, text, [data[n : n + 1] for n in range(len(data))])) == whole
    assert before_the_end(fed(role, text, [data[start:end] for start, end in pairwise(at)])) == whole
    assert before_the_end(fed(role, text, [data], max_bytes=room, max_frames=work)) == whole


@given(roles, texts, st.binary(max_size=300))
def test_any_bytes_give_chunks_or_a_documented_violation(role, text, data):
    """Never an exception, never an unknown reason, never more payload than came."""
    stream, controls, violation, _ = fed(role, text, [data])

    assert sum(len(one) for _, one, _ in stream) + sum(len(body) for _, body in controls) <= len(data)
    if violation is not None:
        assert violation.reason in (Reason.PROTOCOL_ERROR, Reason.INVALID_UTF8, Reason.UNSUPPORTED_DATA)
        assert violation.detail


messages = st.lists(st.lists(st.binary(max_size=400), min_size=1, max_size=4), max_size=6)


@given(roles, messages, st.integers(125, 500), st.lists(st.integers(0, 4000), max_size=6))
def test_what_is_written_with_marks_is_read_back(role, written, largest, cuts):
    """Messages keep their boundaries and their bytes, whatever the largest frame and the cuts on the way."""
    chunks = [chunk for fragments in written for chunk in fragments]
    marks = [
        (0x02 if at == 0 else 0) | (0x80 if at == len(fragments) - 1 else 0)
        for fragments in written
        for at in range(len(fragments))
    ]
    data = b"".join(bytes(part) for part in WebSocketFraming(role, max_frame_bytes=largest).encode(chunks, marks))
    at = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    peer = "client" if role == "server" else "server"
    stream, controls, violation, _ = fed(peer, "accept", [data[start:end] for start, end in pairwise(at)])
    read, message = [], b""
    for _, one, ends in stream:
        message += one
        if ends:
            read.append(message)
            message = b""

    assert (controls, violation, message) == ([], None, b"")
    assert read == [b"".join(fragments) for fragments in written]


@given(roles, st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=5), st.integers(125, 1000))
def test_what_is_written_without_marks_is_read_back(role, chunks, largest):
    """Raw bytes keep their order; every message is binary and no frame is larger than allowed."""
    data = b"".join(bytes(part) for part in WebSocketFraming(role, max_frame_bytes=largest).encode(chunks, None))
    framing = WebSocketFraming("client" if role == "server" else "server")
    _, seen, marks, controls, violation = framing.decode(data, max_bytes=10**6)

    assert (controls, violation) == (None, None)
    assert b"".join(seen) == b"".join(chunks)
    assert set(marks) == {0x82}
    assert max(map(len, seen)) <= largest


@given(st.binary(max_size=5000), st.binary(min_size=4, max_size=4))
def test_masking_in_python_equals_masking_in_c(data, key):
    """And both undo themselves."""
    assert apply_mask_in_python(data, key) == apply_mask(data, key)
    assert apply_mask(apply_mask(data, key), key) == data
