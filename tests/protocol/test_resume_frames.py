"""Frames of the resume protocol: the examples of docs/resume-protocol.md both ways, and what is malformed."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from wsbridge.protocol.resume_frames import (
    MAX_DATA_BYTES,
    Ack,
    Data,
    Failure,
    Fin,
    Frame,
    FrameReader,
    FrameType,
    GoAway,
    Ignored,
    Keepalive,
    Malformed,
    Open,
    Opened,
    Resume,
    ResumeCode,
    Resumed,
    decode_message,
    encode_frame,
)
from wsbridge.protocol.websocket import FrameHeaders, Payloads, WebSocketFraming

PAGE = (Path(__file__).parents[2] / "docs/resume-protocol.md").read_text()
SESSION = bytes(range(16))
TOKEN = bytes(range(32))

FRAMES = [
    Open(),
    Open(2**32 - 1),
    Opened(2**64 - 1, SESSION, TOKEN, 120, 1048576, 65536, 250, 20, "node-1"),
    Opened(0, SESSION, TOKEN, 0, 0, 0, 0, 0, ""),
    Opened(0, SESSION, TOKEN, 0, 0, 0, 0, 0, "n" * 255),
    Resume(1, SESSION, TOKEN, 2**32 - 1, 2**64 - 1, 2**63),
    Resumed(2**64 - 1, TOKEN, 900),
    Ack(0),
    Ack(2**64 - 1),
    Fin(7),
    Failure(4001, "session or token not accepted"),
    Failure(4999, "ä" * 60),
    Failure(4000, ""),
    GoAway(2000, 5000),
    Keepalive(),
]


def plain(frame: Frame) -> Frame:
    """Give a frame whose payload can be compared."""
    return Data(bytes(frame.payload)) if isinstance(frame, Data) else frame


def examples() -> list[tuple[bytes, str]]:
    """Give the message of each example of the page, with the words beside its fields."""
    found = []
    for block in re.findall(r"^```hex\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        rows = [re.fullmatch(r"([0-9a-f]+) +(\S.*)", line) for line in block.splitlines()]
        assert all(rows), block
        found.append((bytes.fromhex("".join(row[1] for row in rows)), "\n".join(row[2] for row in rows)))
    return found


@pytest.mark.parametrize(("message", "words"), examples(), ids=[words.split()[0] for _, words in examples()])
def test_an_example_of_the_page_is_decoded_and_encoded(message: bytes, words: str) -> None:
    """It is the frame that its words say, and that frame is these bytes."""
    frame = decode_message(message)
    values = dict(re.findall(r"^(\w+): (\S+)$", words, re.MULTILINE))

    assert FrameType(message[0]).name == words.split()[0]
    if isinstance(frame, Data):
        assert bytes(frame.payload).decode() == values.pop("payload")
    else:
        assert encode_frame(frame) == message
    assert all(str(getattr(frame, name)) == value for name, value in values.items())


def test_every_type_has_an_example() -> None:
    """And a row in the table of types and its own heading."""
    assert sorted(message[0] for message, _ in examples()) == sorted(FrameType)
    for kind in FrameType:
        assert f"### {kind.name} ({kind:02x})" in PAGE
        assert f"| `{kind:02x}` | [{kind.name}](" in PAGE


def test_every_code_has_a_row() -> None:
    """The table of close codes is that of the code."""
    assert re.findall(r"^\| (4\d\d\d) \|", PAGE, re.MULTILINE) == [str(int(code)) for code in ResumeCode]


def test_links_of_the_page_lead_somewhere() -> None:
    """Each anchor is a heading."""
    headings = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= anchors


@pytest.mark.parametrize("frame", FRAMES, ids=repr)
def test_frames_are_read_back(frame: Frame) -> None:
    """What is encoded is decoded to the same."""
    assert decode_message(encode_frame(frame)) == frame


def test_payload_is_not_copied() -> None:
    """DATA gives a view of the message."""
    message = b"\x05" + bytes(1000)
    frame = decode_message(message)
    assert isinstance(frame, Data)
    assert isinstance(frame.payload, memoryview)
    assert frame.payload.obj is message


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        (b"", "empty message"),
        (b"\x05", "DATA with 0 bytes, not 1 to 65536"),
        (b"\x05" + bytes(MAX_DATA_BYTES + 1), "DATA with 65537 bytes, not 1 to 65536"),
        (b"\x06" + bytes(7), "ACK with 8 bytes"),
        (b"\x06" + bytes(9), "ACK with 10 bytes"),
        (b"\x01" + bytes(5), "OPEN with 6 bytes"),
        (b"\x03" + bytes(75), "RESUME with 76 bytes"),
        (b"\x04", "RESUMED with 1 bytes"),
        (b"\x07" + bytes(2), "FIN with 3 bytes"),
        (b"\x09" + bytes(9), "GOAWAY with 10 bytes"),
        (b"\x80\x00", "KEEPALIVE with 2 bytes"),
        (b"\x02" + bytes(72), "OPENED with 73 bytes"),
        (encode_frame(Opened(0, SESSION, TOKEN, 0, 0, 0, 0, 0, "ab"))[:-1], "a node hint of 1 bytes, not 2"),
        (encode_frame(Opened(0, SESSION, TOKEN, 0, 0, 0, 0, 0, "a"))[:-1] + b"\xff", "characters of ASCII"),
        (b"\x08\x0f", "ERROR with 2 bytes"),
        (b"\x08\x03\xe8", "ERROR with code 1000, not 4000 to 4999"),
        (b"\x08\x0f\xa1" + b"x" * 121, "ERROR with a text of 121 bytes"),
        (b"\x08\x0f\xa1\xff", "ERROR with a text that is not UTF-8"),
        (b"\x00", "frame of unknown type 0x00"),
        (b"\x0a", "frame of unknown type 0x0a"),
        (b"\x7fabc", "frame of unknown type 0x7f"),
        (b"\x81" + bytes(512), "frame of type 0x81 with 513 bytes, and the maximum is 512"),
    ],
)
def test_what_is_no_frame_is_malformed(message: bytes, detail: str) -> None:
    """It is a value that says what is wrong, with the numbers."""
    frame = decode_message(message)
    assert isinstance(frame, Malformed)
    assert detail in frame.detail


def test_unknown_types_from_0x80_are_ignored() -> None:
    """They are for later versions."""
    assert decode_message(b"\x81whatever") == Ignored(0x81)
    assert decode_message(b"\xff") == Ignored(0xFF)


def test_a_text_is_cut_on_a_character_boundary() -> None:
    """120 bytes at most, so that it fits into a close frame."""
    assert decode_message(encode_frame(Failure(4009, "x" + "ä" * 60))) == Failure(4009, "x" + "ä" * 59)
    assert decode_message(encode_frame(Failure(4009, "a\ud800"))) == Failure(4009, "a?")


@pytest.mark.parametrize(
    "frame",
    [
        Resume(0, SESSION[:15], TOKEN, 1, 0, 0),
        Resume(0, SESSION, TOKEN[:31], 1, 0, 0),
        Resumed(0, TOKEN + b"x", 1),
        Opened(0, SESSION, b"", 0, 0, 0, 0, 0, ""),
        Opened(0, SESSION, TOKEN, 0, 0, 0, 0, 0, "n" * 256),
        Opened(0, SESSION, TOKEN, 0, 0, 0, 0, 0, "ö"),
    ],
)
def test_wrong_lengths_are_not_encoded(frame: Opened | Resume | Resumed) -> None:
    """`struct` would pad or cut them."""
    with pytest.raises(ValueError, match=r"token of|session id of|node hint of|ascii"):
        encode_frame(frame)


def test_numbers_out_of_range_are_not_encoded() -> None:
    """Nothing wraps around."""
    with pytest.raises(struct.error):
        encode_frame(Ack(2**64))


MESSAGES = [b"\x05hello", b"\x80", b"\x05" + bytes(5000), *map(encode_frame, FRAMES), b"\x05x", b"\x91???"]


def chunks_of(messages: list[bytes], cuts: list[int]) -> Iterator[tuple[Payloads, FrameHeaders]]:
    """Give the chunks of messages whose WebSocket frames arrive in parts."""
    data = b"".join(bytes(part) for part in WebSocketFraming("server").encode_messages((one, b"") for one in messages))
    framing = WebSocketFraming("client")
    for begin, end in pairwise([0, *cuts, len(data)]):
        piece = data[begin:end]
        while piece:
            used, payloads, headers, _, violation = framing.decode(piece)
            assert violation is None
            yield payloads, headers or []
            piece = piece[used:]


def in_parts(messages: list[bytes], cuts: list[int]) -> list[Frame]:
    """Give what a reader makes of messages whose WebSocket frames arrive in parts."""
    reader = FrameReader()
    return [frame for chunks in chunks_of(messages, cuts) for frame in reader.read(*chunks)]


def joined(frames: list[Frame]) -> list[Frame]:
    """Join neighbouring payload."""
    out: list[Frame] = []
    for frame in map(plain, frames):
        if isinstance(frame, Data) and out and isinstance(out[-1], Data):
            out[-1] = Data(bytes(out[-1].payload) + bytes(frame.payload))
        else:
            out.append(frame)
    return out


@pytest.mark.parametrize("step", [1, 2, 3, 5, 100, 1000000])
def test_a_reader_gives_the_same_for_any_cuts(step: int) -> None:
    """DATA in parts as it arrives, other frames once they are whole."""
    size = sum(map(len, WebSocketFraming("server").encode_messages((one, b"") for one in MESSAGES)))
    expected = joined([decode_message(message) for message in MESSAGES])
    assert joined(in_parts(MESSAGES, list(range(step, size, step)))) == expected


RUNS = [b"\x05hello", encode_frame(Ack(3)), b"\x05" + bytes(5000), encode_frame(Ack(3)), b"\x05x", encode_frame(Ack(9))]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 11, 12, 100, 1000000])
@pytest.mark.parametrize("messages", [RUNS, MESSAGES, RUNS + MESSAGES])
def test_runs_hold_what_frames_do(messages: list[bytes], step: int) -> None:
    """Whether chunks are read as a run or as frames: the same payload, the last ACK, as many control frames."""
    by_run, by_frame = FrameReader(), FrameReader()
    frames: list[Frame] = []
    expected: list[Frame] = []
    for payloads, headers in chunks_of(messages, list(range(step, 20000, step))):
        run = by_run.read_run(payloads, headers)
        if run is None:
            frames += by_run.read(payloads, headers)
        else:
            assert run.size == sum(map(len, run.payloads))
            frames += map(Data, run.payloads)
            frames += [] if run.acked_position is None else [Ack(run.acked_position)]
        expected += by_frame.read(payloads, headers)

    def of(kind: type[Frame], found: list[Frame]) -> list[Frame]:
        return joined([frame for frame in found if isinstance(frame, kind)])

    assert of(Data, frames) == of(Data, expected)
    assert of(Ack, frames)[-1:] == of(Ack, expected)[-1:]
    assert [one for one in frames if not isinstance(one, Data | Ack)] == [
        one for one in expected if not isinstance(one, Data | Ack)
    ]
    assert by_run.control_frame_count == by_frame.control_frame_count


@pytest.mark.parametrize(
    ("payloads", "headers"),
    [
        ([b"\x05abc"], [0x81]),
        ([b"\x05"], [0x82]),
        ([b"\x05abc", b"\x05" + bytes(65537)], [0x82, 0x82]),
        ([b"\x05abc", encode_frame(Ack(9)), encode_frame(Ack(8))], [0x82, 0x82, 0x82]),
        ([b"\x05abc", encode_frame(Fin(3))], [0x82, 0x82]),
        ([b"\x05abc", b"\x06\0\0"], [0x82, 0x02]),
        ([b""], [0x82]),
    ],
)
def test_what_is_no_run_is_left_as_it_is(payloads: list[bytes], headers: list[int]) -> None:
    """It is read frame by frame, from the same state."""
    reader = FrameReader()
    assert reader.read_run(payloads, headers) is None
    assert list(map(plain, reader.read(payloads, headers))) == list(map(plain, FrameReader().read(payloads, headers)))


def test_a_reader_gives_parts_of_data_at_once() -> None:
    """A message is never assembled, whether its frame or its fragments are in parts."""
    reader = FrameReader()
    assert reader.read([b"\x05"], [0x02]) == []
    assert reader.read([b"ab", b"cd"], [0x00, 0x00]) == [Data(b"ab"), Data(b"cd")]
    assert reader.read([b"", b"\x06\0\0\0"], [0x80, 0x02]) == []
    assert reader.read([bytes(5)], [0x80]) == [Ack(0)]
    assert reader.control_frame_count == 1


@pytest.mark.parametrize(
    ("payloads", "headers", "detail"),
    [
        ([b"\x05abc"], [0x81], "text message"),
        ([b"\x05", b""], [0x02, 0x80], "DATA with 0 bytes"),
        ([b"\x05" + bytes(40000), bytes(30000)], [0x02, 0x00], "DATA with 70000 bytes or more"),
        ([b"\x05" + bytes(65537)], [0x82], "DATA with 65537 bytes or more"),
        ([b"\x03" + bytes(400), bytes(400)], [0x02, 0x00], "frame of type 0x03 with 801 bytes"),
        ([b""], [0x82], "empty message"),
    ],
)
def test_a_reader_bounds_what_it_holds(payloads: list[bytes], headers: list[int], detail: str) -> None:
    """Too long messages are malformed as soon as they are too long, and nothing after them counts."""
    reader = FrameReader()
    frames = reader.read([*payloads, b"\x05abc"], [*headers, 0x82])

    assert isinstance(frames[-1], Malformed)
    assert detail in frames[-1].detail
    assert reader.read([b"\x05abc"], [0x82]) == []
