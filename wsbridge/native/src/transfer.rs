//! From a read of one side to a write to the other: unmasked, masked, framed, with the boundaries of messages kept.

use crate::buffers::{Buffers, FRAME_BYTES, MAX_SLOTS};
use crate::frame::{self, Piece, Stop, BINARY, FIN};
use crate::http_guard::may_be_http;
use crate::side::Side;
use crate::sys::Errno;
use crate::wire::{Got, Wire};

/// Bytes of a read of frames while reads are full.
const MAX_READ_BYTES: usize = 4 * FRAME_BYTES;

/// What one read of a side led to.
pub enum Moved {
    Nothing,
    Bytes(usize),
    End,
    Close,
    Unusual,
    Broken,
}

/// How many bytes a read of a side gave; else what that leads to.
fn bytes_read(src: &mut Side, result: Result<Got, Errno>, now: u64) -> Result<usize, Moved> {
    match result {
        Ok(Got::Bytes(count)) => {
            src.last_received = now;
            Ok(count)
        }
        Ok(Got::Nothing) => Err(Moved::Nothing),
        Ok(Got::End) => Err(Moved::End),
        Err(error) => {
            src.read_error = error;
            Err(Moved::Broken)
        }
    }
}

/// Moves what one read of raw bytes gives.
pub fn move_raw(src: &mut Side, dst: &mut Side, now: u64, buffers: &mut Buffers) -> Moved {
    let framed = dst.is_websocket();
    let strided = framed && dst.max_frame_bytes >= FRAME_BYTES;
    let masks = dst.masks();
    let header = if masks { 14 } else { 10 };
    let gap = if strided { header } else { 0 };
    let slots = if framed && !strided { 1 } else { src.slots };
    let input = &mut buffers.input[..slots * (gap + FRAME_BYTES)];
    let one = gap..gap + FRAME_BYTES;
    let result = match &mut src.wire {
        Wire::Plain(wire) if src.input.is_empty() => {
            wire.recv_strided(input, gap, FRAME_BYTES, slots)
        }
        _ => src.recv(&mut input[one], &mut buffers.scratch),
    };
    let count = match bytes_read(src, result, now) {
        Ok(count) => count,
        Err(moved) => return moved,
    };
    if src.guarded {
        let first = &buffers.input[gap..gap + count]; // in one slot: `slots` is still 1
        if may_be_http(first) {
            src.input.splice(0..0, first.iter().copied());
            return Moved::Unusual;
        }
        src.guarded = false;
    }
    src.slots = next_slots(src.slots, count);
    src.received_bytes += count as u64;
    let sent = if !framed {
        dst.send(&buffers.input[..count], &[], now, &mut buffers.scratch)
    } else if strided {
        send_slots(dst, count, now, buffers)
    } else {
        send_message(dst, count, now, buffers)
    };
    if sent {
        Moved::Bytes(count)
    } else {
        Moved::Broken
    }
}

/// Reads are doubled while they are full.
fn next_slots(slots: usize, count: usize) -> usize {
    if count == slots * FRAME_BYTES {
        (slots * 2).min(MAX_SLOTS)
    } else if count < FRAME_BYTES {
        1
    } else {
        slots
    }
}

/// Sends bytes that lie in slots of FRAME_BYTES, each as a message, with one call.
fn send_slots(dst: &mut Side, count: usize, now: u64, buffers: &mut Buffers) -> bool {
    let masks = dst.masks();
    let gap = if masks { 14 } else { 10 };
    let stride = gap + FRAME_BYTES;
    let full = count / FRAME_BYTES;
    let last = count % FRAME_BYTES;
    let mut begin = 0;
    for index in 0..full + usize::from(last > 0) {
        let size = if index < full { FRAME_BYTES } else { last };
        let Ok(key) = dst.mask_key(&mut buffers.keys) else {
            return false;
        };
        let slot = &mut buffers.input[index * stride..index * stride + gap + size];
        let (room, payload) = slot.split_at_mut(gap);
        if let Some(key) = key {
            frame::apply_mask(payload, key);
        }
        begin = index * stride + frame::write_header_before(room, FIN | BINARY, size, key);
    }
    let end = full * stride;
    if last == 0 {
        return dst.send(&buffers.input[..end], &[], now, &mut buffers.scratch);
    }
    let tail = &buffers.input[begin..end + gap + last];
    if full == 0 {
        dst.send(tail, &[], now, &mut buffers.scratch)
    } else {
        dst.send(&buffers.input[..end], tail, now, &mut buffers.scratch)
    }
}

/// Sends bytes as messages of at most the largest frame.
fn send_message(dst: &mut Side, count: usize, now: u64, buffers: &mut Buffers) -> bool {
    buffers.output.clear();
    for payload in buffers.input[..count].chunks(dst.max_frame_bytes) {
        let Ok(key) = dst.mask_key(&mut buffers.keys) else {
            return false;
        };
        frame::push_frame(&mut buffers.output, FIN | BINARY, payload, key);
    }
    let output = std::mem::take(&mut buffers.output);
    let sent = dst.send(&output, &[], now, &mut buffers.scratch);
    buffers.output = output;
    sent
}

/// Moves what one read of frames gives.
pub fn move_frames(src: &mut Side, dst: &mut Side, now: u64, buffers: &mut Buffers) -> Moved {
    let asked = src.read_bytes;
    let result = src.recv(&mut buffers.input[..asked], &mut buffers.scratch);
    let count = match bytes_read(src, result, now) {
        Ok(count) => count,
        Err(moved) => return moved,
    };
    src.read_bytes = if count == asked {
        (asked * 2).min(MAX_READ_BYTES)
    } else {
        FRAME_BYTES
    };
    let Some(decoder) = &mut src.decoder else {
        return Moved::Broken;
    };
    let frames_before = decoder.control_frame_count;
    let found = &mut buffers.found;
    found.keep_pieces = dst.is_websocket();
    found.pieces.clear();
    found.ranges.clear();
    found.pings.clear(); // of a side whose other broke: nobody else may get their answers
    let (used, stop) = decoder.decode(&mut buffers.input[..count], found);
    let payload = found.payload_bytes();
    let controls = decoder.control_frame_count != frames_before;
    src.received_bytes += payload as u64;
    if used < count {
        let rest = buffers.input[used..count].iter().copied();
        src.input.splice(0..0, rest);
    }
    let sent = if buffers.found.keep_pieces {
        buffers.found.pieces.is_empty() || send_pieces(dst, now, buffers)
    } else {
        payload == 0 || send_ranges(dst, now, buffers)
    };
    if !sent || !answer_pings(src, now, buffers) {
        if stop == Stop::Close {
            src.unread_close();
        }
        return Moved::Broken;
    }
    match stop {
        Stop::Close if src.has_input() => {
            src.unread_close();
            Moved::Unusual // bytes behind a close frame
        }
        Stop::Close => Moved::Close,
        Stop::Unusual => Moved::Unusual,
        _ if controls && src.floods(now) => Moved::Unusual,
        _ => Moved::Bytes(payload),
    }
}

/// Answers the pings that a read gave; false if the connection is broken.
fn answer_pings(src: &mut Side, now: u64, buffers: &mut Buffers) -> bool {
    if buffers.found.pings.is_empty() {
        return true;
    }
    for body in std::mem::take(&mut buffers.found.pings) {
        if !src.answer_ping(body, now, buffers) {
            return false;
        }
    }
    true
}

/// Sends payload from where it lies in the input.
fn send_ranges(dst: &mut Side, now: u64, buffers: &mut Buffers) -> bool {
    let Buffers {
        input,
        found,
        scratch,
        ..
    } = buffers;
    match &found.ranges[..] {
        [range] => dst.send(&input[range.clone()], &[], now, scratch),
        [first, second] => dst.send(&input[first.clone()], &input[second.clone()], now, scratch),
        ranges => dst.send_parts(input, ranges, now, scratch),
    }
}

/// Sends the pieces of messages that lie in the input.
fn send_pieces(dst: &mut Side, now: u64, buffers: &mut Buffers) -> bool {
    buffers.output.clear();
    let mut at = buffers.found.ranges.first().map_or(0, |range| range.start);
    let pieces = std::mem::take(&mut buffers.found.pieces);
    for Piece { size, first_byte } in &pieces {
        let mut rest = &buffers.input[at..at + size];
        at += size;
        let mut opcode = first_byte & 0x0f;
        loop {
            let (payload, more) = rest.split_at(rest.len().min(dst.max_frame_bytes));
            let fin = if more.is_empty() { first_byte & FIN } else { 0 };
            let Ok(key) = dst.mask_key(&mut buffers.keys) else {
                return false;
            };
            frame::push_frame(&mut buffers.output, opcode | fin, payload, key);
            if more.is_empty() {
                break;
            }
            rest = more;
            opcode = 0;
        }
    }
    buffers.found.pieces = pieces;
    let output = std::mem::take(&mut buffers.output);
    let sent = dst.send(&output, &[], now, &mut buffers.scratch);
    buffers.output = output;
    sent
}
