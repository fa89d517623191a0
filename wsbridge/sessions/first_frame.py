"""The first frame of a client that wants a resumable session: whether it opens one or resumes one."""

from __future__ import annotations

from copy import copy
from typing import Final

import trio

from wsbridge.protocol.resume_frames import Failure, Frame, FrameReader, Malformed, Open, Resume
from wsbridge.protocol.websocket import (
    CLOSE,
    FIN,
    PING,
    PONG,
    ControlFrame,
    WebSocketFraming,
    decode_close_body,
)
from wsbridge.reasons import Reason, Rejected
from wsbridge.relay.endpoint import Side, SideState
from wsbridge.relay.relay import CONTROL_FLOOD_WINDOW, describe_close

_HEADER_STEP_BYTES: Final = 1024
"""Of what has come, how much is copied to decode the header of one frame."""


def session_side(side: Side) -> Side:
    """Return the side of a client after a 101 for the subprotocol: with the framing that all its input goes through."""
    framing = WebSocketFraming("server", "bytes", side.max_frame_bytes)
    return Side(
        side.transport, "server", max_frame_bytes=side.max_frame_bytes, state=SideState(framing), resumable=True
    )


async def read_first_frame(
    side: Side, timeout: float, control_frame_rate: int, read_scopes: set[trio.CancelScope]
) -> Open | Resume:
    """Read the first frame.

    Args:
        side: Of `session_side`.
        timeout: Seconds.
        control_frame_rate: See `RelayOptions`.
        read_scopes: Contains the scope of this wait while it lasts; cancelling that counts as the timeout.

    Raises:
        Rejected: It did not come in time, or is none that may come first.
    """
    reader = FrameReader()
    with trio.move_on_after(timeout) as scope:
        read_scopes.add(scope)
        try:
            while True:
                frames = await _read_frames(side, reader, control_frame_rate)
                if frames:
                    return _check_first(frames)
        finally:
            read_scopes.discard(scope)
    raise Rejected(Reason.HANDSHAKE_TIMEOUT, f"no frame within resume.first_frame, {timeout:g} s")


async def _read_frames(side: Side, reader: FrameReader, control_frame_rate: int) -> list[Frame]:
    """Read once, and answer the latest ping (RFC 6455 section 5.5.3); other tasks have their turn first."""
    assert side.state is not None and isinstance(side.state.framing, WebSocketFraming)  # noqa: S101 (see `session_side`)
    transport, framing = side.transport, side.state.framing
    await trio.lowlevel.checkpoint()  # a read that finds bytes is none
    try:
        data = await transport.read_some()
    except OSError as error:
        raise Rejected(transport.fault or Reason.CLIENT_LOST, f"before the first frame: {error}") from None
    if not data:
        raise Rejected(Reason.CLIENT_LOST, "before the first frame: the connection ended without a close frame")
    before = copy(framing)
    used, chunks, marks, controls, violation = framing.decode(data)
    if framing.control_frame_count > control_frame_rate * CONTROL_FLOOD_WINDOW:
        detail = f"more than {control_frame_rate} control or empty frames a second over {CONTROL_FLOOD_WINDOW:.0f} s"
        raise Rejected(Reason.CONTROL_FLOOD, detail)
    frames = reader.read(chunks, marks or [])
    if frames and isinstance(frames[0], Resume):
        frames, framing = frames[:1], copy(before)
        side.state = SideState(framing)
        used, controls = _decode_one_message(framing, data)
        violation = None
    pong = b""
    for opcode, body in controls or ():
        if opcode == CLOSE:  # it is left to what answers it, which otherwise would wait for one
            side.state = SideState(before)
            transport.unread(data)
            raise Rejected(Reason.CLIENT_CLOSED, describe_close(*decode_close_body(body)))
        if opcode == PING:
            pong = framing.encode_control(PONG, body)
    transport.unread(data[used:])
    if pong:
        await _send(side, pong)
    if violation is not None:
        raise Rejected(violation.reason, violation.detail)
    return frames


def _decode_one_message(framing: WebSocketFraming, data: bytes) -> tuple[int, list[ControlFrame]]:
    """Decode up to the end of the first message, which is there; what follows RESUME is for the session, or its end.

    Returns:
        How many bytes that are, and the control frames in them.
    """
    at, controls = 0, list[ControlFrame]()
    while True:
        end = at + (framing.payload_left or _HEADER_STEP_BYTES)  # no call decodes more than the rest of one frame
        used, _, marks, found, _ = framing.decode(data[at:end], max_frames=1)
        at += used
        controls += found or ()
        if any(mark & FIN for mark in marks or ()):
            return at, controls


async def _send(side: Side, frame: bytes) -> None:
    try:
        await side.transport.write_all(frame)
    except OSError as error:
        raise Rejected(Reason.CLIENT_LOST, f"before the first frame: {error}") from None


def _check_first(frames: list[Frame]) -> Open | Resume:
    """Return the one frame that a client may send before it is answered."""
    first = frames[0]
    failure = next((frame for frame in frames if isinstance(frame, Failure)), None)
    if failure is not None:
        raise Rejected(Reason.CLIENT_CLOSED, f"ERROR {failure.code} before the session was opened")
    if isinstance(first, Malformed):
        raise Rejected(Reason.PROTOCOL_ERROR, first.detail)
    if not isinstance(first, Open | Resume):
        raise Rejected(Reason.PROTOCOL_ERROR, f"{type(first).__name__.upper()} as the first frame")
    if len(frames) > 1:
        raise Rejected(Reason.PROTOCOL_ERROR, f"{type(frames[1]).__name__.upper()} before the session was opened")
    return first
