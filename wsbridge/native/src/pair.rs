//! Two sides, and the bytes between them, as long as no rule is needed.
//!
//! A pair begins open. Of the endings only the common one is carried on, where nothing waits to be written and the
//! client speaks WebSocket to a raw backend:
//!
//! ```text
//! OPEN --- Close of the client -----> CLIENT_CLOSED   answered, FIN to the backend; its bytes are dropped
//! OPEN --- FIN of the backend ------> BACKEND_CLOSED  Close to the client; its bytes are still passed on
//! CLIENT_CLOSED --- FIN of the backend, BACKEND_CLOSED --- Close of the client ---> ended
//! ```
//!
//! Everything else goes back to Python (`Flow::Return`), from any of these states.

use crate::frame::{self, Decoder, Found, Piece, Role, Stop, BINARY, CLOSE, FIN, PONG};
use crate::sys::{self, Errno};
use crate::tls::Scratch;
use crate::wire::{Got, Wire};
use std::ops::Range;

/// Payload bytes of the largest frame that is made of raw bytes, and of one read of frames.
pub const FRAME_BYTES: usize = 65536;
/// Room before the payload of a frame in a buffer.
const GAP: usize = frame::MAX_HEADER_BYTES + 2;
/// Bytes of a read of frames while reads are full.
const MAX_READ_BYTES: usize = 4 * FRAME_BYTES;
/// Frames of raw bytes of one read while reads are full.
const MAX_SLOTS: usize = sys::MAX_BUFFERS;
/// Reads in one turn of one direction; then other pairs have theirs.
const MAX_READS_PER_TURN: usize = 4;
/// Seconds over which control and empty frames are counted, in nanoseconds.
const CONTROL_FLOOD_WINDOW: u64 = 5_000_000_000;
/// Bytes that a backend may still send after its client has closed; then Python decides.
const MAX_DROPPED_BYTES: u64 = 262_144;
/// What the client of a backend that has ended is told.
const BACKEND_CLOSED_BODY: &[u8] = b"\x03\xe8backend_closed";

/// Why a pair goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Python asked for it.
    Recalled,
    /// Bytes for which there is a rule.
    Unusual,
    /// The end of a side, or a close frame.
    End,
    /// An error of a descriptor.
    Error,
    /// A side accepts nothing, or an ending takes its time.
    Slow,
    /// Both sides have ended, in order.
    Ended,
    /// A bug.
    Panic,
}

/// What is to be done with a pair after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Wait for an event.
    Wait,
    /// Another turn.
    More,
    Return(Cause),
}

/// How far the ending has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Open,
    ClientClosed,
    BackendClosed,
}

/// Buffers of a thread.
pub struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
    found: Found,
    keys: MaskKeys,
    scratch: Scratch,
}

impl Buffers {
    pub fn new() -> Self {
        Buffers {
            input: vec![0; MAX_SLOTS * (GAP + FRAME_BYTES)],
            output: Vec::new(),
            found: Found::default(),
            keys: MaskKeys {
                pool: vec![0; 4096],
                used: 4096,
            },
            scratch: Scratch::new(),
        }
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new()
    }
}

/// Masking keys from the system's randomness (RFC 6455 section 10.3).
struct MaskKeys {
    pool: Vec<u8>,
    used: usize,
}

impl MaskKeys {
    /// An unpredictable key; `None` if the system has no randomness.
    fn next(&mut self) -> Option<[u8; 4]> {
        if self.used + 4 > self.pool.len() {
            if !sys::random(&mut self.pool) {
                return None;
            }
            self.used = 0;
        }
        let mut key = [0; 4];
        key.copy_from_slice(&self.pool[self.used..self.used + 4]);
        self.used += 4;
        Some(key)
    }
}

/// How many control and empty frames a peer may send.
#[derive(Clone, Copy, Debug)]
pub struct ControlLimit {
    pub rate: u64,
    pub window_start: u64,
    pub window_base: u64,
}

/// One side.
pub struct Side {
    pub wire: Wire,
    /// What decodes its frames; `None` for raw bytes.
    pub decoder: Option<Decoder>,
    /// Largest payload of a frame that is written to it.
    pub max_frame_bytes: usize,
    pub control: ControlLimit,
    /// Bytes that the kernel had accepted before.
    pub sent_before: u64,
    /// A pong that waits behind what is unsent.
    pub pending_pong: Option<Vec<u8>>,
    /// Payload bytes that came from it.
    pub received_bytes: u64,
    /// When bytes last came, in nanoseconds; 0 for never.
    pub last_received: u64,
    /// When bytes were last accepted by the kernel; 0 for never.
    pub last_sent: u64,
    /// Since when it accepts nothing; 0 if nothing waits.
    pub blocked_since: u64,
    /// What was read from it and not decoded: it comes before what the wire gives.
    pub input: Vec<u8>,
    /// Whether an event reported an end or an error.
    pub hung_up: bool,
    pub read_error: Errno,
    pub write_error: Errno,
    slots: usize,
    read_bytes: usize,
}

impl Side {
    pub fn new(
        wire: Wire,
        decoder: Option<Decoder>,
        max_frame_bytes: usize,
        control: ControlLimit,
    ) -> Self {
        let sent_before = wire.sent_bytes();
        Side {
            wire,
            decoder,
            max_frame_bytes: max_frame_bytes.max(1),
            control,
            sent_before,
            pending_pong: None,
            received_bytes: 0,
            last_received: 0,
            last_sent: 0,
            blocked_since: 0,
            input: Vec::new(),
            hung_up: false,
            read_error: 0,
            write_error: 0,
            slots: 1,
            read_bytes: FRAME_BYTES,
        }
    }

    fn is_websocket(&self) -> bool {
        self.decoder.is_some()
    }

    fn masks(&self) -> bool {
        matches!(&self.decoder, Some(decoder) if decoder.role == Role::Client)
    }

    /// Whether there is input that no event will tell of.
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Reads from what is left of an earlier read, else from the wire.
    fn recv(&mut self, buffer: &mut [u8], scratch: &mut Scratch) -> Result<Got, Errno> {
        if self.input.is_empty() {
            return self.wire.recv(buffer, scratch);
        }
        let count = self.input.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.input[..count]);
        if count == self.input.len() {
            self.input = Vec::new();
        } else {
            self.input.drain(..count);
        }
        Ok(Got::Bytes(count))
    }

    pub fn is_blocked(&self) -> bool {
        self.blocked_since != 0
    }

    /// Writes; false if the connection is broken.
    fn send(&mut self, first: &[u8], second: &[u8], now: u64, scratch: &mut Scratch) -> bool {
        let before = self.wire.sent_bytes();
        let result = self.wire.send(first, second, scratch);
        if self.wire.sent_bytes() != before {
            self.last_sent = now;
        }
        self.note_write(result, now)
    }

    /// Writes parts of a buffer, in order; false if the connection is broken.
    fn send_parts(
        &mut self,
        buffer: &[u8],
        parts: &[Range<usize>],
        now: u64,
        scratch: &mut Scratch,
    ) -> bool {
        let before = self.wire.sent_bytes();
        let result = self.wire.send_parts(buffer, parts, scratch);
        if self.wire.sent_bytes() != before {
            self.last_sent = now;
        }
        self.note_write(result, now)
    }

    fn note_write(&mut self, result: Result<bool, Errno>, now: u64) -> bool {
        match result {
            Ok(true) => self.blocked_since = 0,
            Ok(false) => {
                self.slots = 1;
                if self.blocked_since == 0 || self.last_sent == now {
                    self.blocked_since = now;
                }
            }
            Err(error) => {
                self.write_error = error;
                return false;
            }
        }
        true
    }

    /// Writes what is unsent; false if the connection is broken.
    pub fn flush(&mut self, now: u64, buffers: &mut Buffers) -> bool {
        if !self.is_blocked() {
            return true;
        }
        let before = self.wire.sent_bytes();
        let result = self.wire.flush();
        if self.wire.sent_bytes() != before {
            self.last_sent = now;
        }
        if !self.note_write(result, now) {
            return false;
        }
        match self.pending_pong.take() {
            Some(body) if !self.is_blocked() => self.send_control(PONG, &body, now, buffers),
            pong => {
                self.pending_pong = pong;
                true
            }
        }
    }

    fn mask_key(&self, keys: &mut MaskKeys) -> Result<Option<[u8; 4]>, ()> {
        if self.masks() {
            keys.next().map(Some).ok_or(())
        } else {
            Ok(None)
        }
    }

    /// Writes a control frame; only while nothing is unsent. False if the connection is broken.
    fn send_control(&mut self, opcode: u8, body: &[u8], now: u64, buffers: &mut Buffers) -> bool {
        let Ok(key) = self.mask_key(&mut buffers.keys) else {
            return false;
        };
        buffers.output.clear();
        frame::push_frame(&mut buffers.output, FIN | opcode, body, key);
        self.send(&buffers.output, &[], now, &mut buffers.scratch)
    }

    /// Answers a ping; behind what is unsent only the latest answer is kept (RFC 6455 section 5.5.3).
    fn answer_ping(&mut self, body: Vec<u8>, now: u64, buffers: &mut Buffers) -> bool {
        if self.is_blocked() {
            self.pending_pong = Some(body);
            return true;
        }
        self.send_control(PONG, &body, now, buffers)
    }

    /// Whether it has sent more control and empty frames than it may.
    fn floods(&mut self, now: u64) -> bool {
        let Some(decoder) = &self.decoder else {
            return false;
        };
        let count = decoder
            .control_frame_count
            .saturating_sub(self.control.window_base);
        if count == 0 {
            return false;
        }
        let elapsed = now.saturating_sub(self.control.window_start);
        let window = elapsed.max(CONTROL_FLOOD_WINDOW);
        let allowed = u128::from(self.control.rate) * u128::from(window);
        if u128::from(count) * 1_000_000_000 > allowed {
            return true;
        }
        if elapsed >= CONTROL_FLOOD_WINDOW {
            self.control.window_start = now;
            self.control.window_base = decoder.control_frame_count;
        }
        false
    }
}

/// Two sides: the client's and the backend's.
pub struct Pair {
    pub tag: u64,
    pub sides: [Side; 2],
    /// When payload last moved, in nanoseconds; 0 for never.
    pub last_payload: u64,
    pub stage: Stage,
    /// When the stage began.
    pub stage_since: u64,
    /// The body of the client's close frame that began the ending.
    pub close_body: Vec<u8>,
    /// Whether an orderly end may be carried on.
    pub ends_here: bool,
    pub cause: Cause,
    dropped: u64,
    /// Whether it is on its thread's lists.
    pub is_slow: bool,
    pub is_again: bool,
}

/// Bytes and times of a pair that is carried; times in nanoseconds, 0 for never.
pub struct Figures {
    pub received: [u64; 2],
    pub last_payload: u64,
    pub last_received: [u64; 2],
    pub last_sent: [u64; 2],
    pub blocked_since: [u64; 2],
}

pub const FRONT: usize = 0;
pub const BACK: usize = 1;

impl Pair {
    pub fn new(tag: u64, front: Side, back: Side, ends_here: bool) -> Self {
        let ends_here = ends_here
            && back.decoder.is_none()
            && matches!(&front.decoder, Some(decoder) if decoder.role == Role::Server);
        Pair {
            tag,
            sides: [front, back],
            last_payload: 0,
            stage: Stage::Open,
            stage_since: 0,
            close_body: Vec::new(),
            ends_here,
            cause: Cause::Recalled,
            dropped: 0,
            is_slow: false,
            is_again: false,
        }
    }

    /// Moves what can be moved after an event of one side.
    pub fn on_event(
        &mut self,
        which: usize,
        event: &sys::Event,
        now: u64,
        buffers: &mut Buffers,
    ) -> Flow {
        let side = &mut self.sides[which];
        if event.error {
            side.hung_up = true;
            return Flow::Return(Cause::Error);
        }
        if event.hung_up || event.urgent {
            // a read stops at the mark of urgent data, and data with FIN is one edge
            side.hung_up |= event.hung_up;
            side.wire.read_until_empty();
        } else if event.readable {
            side.wire.note_input();
        }
        let blocked = side.is_blocked();
        if blocked && !side.flush(now, buffers) {
            return Flow::Return(Cause::Error);
        }
        let flow = self.transfer(which, now, buffers);
        if blocked {
            return both(flow, || self.transfer(1 - which, now, buffers));
        }
        flow
    }

    /// Whether it has input that no event will tell of.
    pub fn has_input(&self) -> bool {
        self.sides
            .iter()
            .any(|side| side.has_input() || side.wire.has_buffered())
    }

    /// Moves what can be moved, both ways.
    pub fn run_once(&mut self, now: u64, buffers: &mut Buffers) -> Flow {
        let flow = self.transfer(FRONT, now, buffers);
        both(flow, || self.transfer(BACK, now, buffers))
    }

    /// Moves payload from one side to the other until one of them would block, or the turn is over.
    fn transfer(&mut self, from: usize, now: u64, buffers: &mut Buffers) -> Flow {
        if self.stage == Stage::ClientClosed {
            return if from == BACK {
                self.drop_input(buffers)
            } else {
                Flow::Wait
            };
        }
        if self.stage == Stage::BackendClosed && from == BACK {
            return Flow::Wait;
        }
        for _ in 0..MAX_READS_PER_TURN {
            let [front, back] = &mut self.sides;
            let (src, dst) = if from == FRONT {
                (front, back)
            } else {
                (back, front)
            };
            if !(src.wire.is_readable() || src.has_input()) || dst.is_blocked() {
                return Flow::Wait;
            }
            let moved = if src.is_websocket() {
                move_frames(src, dst, now, buffers)
            } else {
                move_raw(src, dst, now, buffers)
            };
            match moved {
                Moved::Nothing if src.wire.is_readable() => {} // records without payload
                Moved::Nothing => return Flow::Wait,
                Moved::Bytes(0) => {}
                Moved::Bytes(_) => self.last_payload = now,
                Moved::End => return self.end(from, now, buffers),
                Moved::Unusual => return Flow::Return(Cause::Unusual),
                Moved::Broken => {
                    self.note_broken(from);
                    return Flow::Return(Cause::Error);
                }
                Moved::Close => return self.close(from, now, buffers),
            }
        }
        Flow::More
    }

    /// Sees to it that a pair that broke is not taken for whole: what was read of it may be lost.
    fn note_broken(&mut self, from: usize) {
        let known = self
            .sides
            .iter()
            .any(|side| side.read_error != 0 || side.write_error != 0);
        if !known {
            self.sides[from].read_error = libc::EIO; // no randomness for a masking key
        }
    }

    /// A side has ended without a close frame.
    fn end(&mut self, from: usize, now: u64, buffers: &mut Buffers) -> Flow {
        let front = &mut self.sides[FRONT];
        if from != BACK || !self.ends_here || self.stage != Stage::Open || front.is_blocked() {
            return Flow::Return(Cause::End);
        }
        if !front.send_control(CLOSE, BACKEND_CLOSED_BODY, now, buffers) {
            return Flow::Return(Cause::Error);
        }
        self.enter(Stage::BackendClosed, now);
        if self.sides[FRONT].is_blocked() {
            return Flow::Return(Cause::Slow);
        }
        Flow::Wait
    }

    /// A side has sent a close frame.
    fn close(&mut self, from: usize, now: u64, buffers: &mut Buffers) -> Flow {
        let [front, back] = &mut self.sides;
        let body = match (&front.decoder, from) {
            (Some(decoder), FRONT) => decoder.control_body().to_vec(),
            _ => Vec::new(),
        };
        let orderly = matches!(
            frame::close_code(&body),
            Some(None | Some(1000 | 1001 | 3000..))
        );
        if from != FRONT
            || !self.ends_here
            || !orderly
            || front.is_blocked()
            || back.is_blocked()
            || front.has_input()
        {
            self.sides[from].unread_close();
            return Flow::Return(Cause::End);
        }
        if self.stage == Stage::BackendClosed {
            if !front.wire.finish(&mut buffers.scratch) {
                front.unread_close();
                return Flow::Return(Cause::Slow);
            }
            if !back.wire.finish(&mut buffers.scratch) {
                return Flow::Return(Cause::Slow);
            }
            return self.ended(buffers);
        }
        let answer = if body.is_empty() {
            &b"\x03\xe8"[..]
        } else {
            &body
        };
        if !front.send_control(CLOSE, answer, now, buffers) {
            front.unread_close();
            return Flow::Return(Cause::Error);
        }
        let whole = !front.is_blocked()
            && front.wire.finish(&mut buffers.scratch)
            && back.wire.finish(&mut buffers.scratch);
        self.close_body = body;
        self.enter(Stage::ClientClosed, now);
        if whole {
            self.drop_input(buffers)
        } else {
            Flow::Return(Cause::Slow)
        }
    }

    fn enter(&mut self, stage: Stage, now: u64) {
        self.stage = stage;
        self.stage_since = now;
    }

    /// Reads what a backend still sends whose client has closed, until it ends.
    fn drop_input(&mut self, buffers: &mut Buffers) -> Flow {
        let back = &mut self.sides[BACK];
        while back.wire.is_readable() {
            match back
                .wire
                .recv(&mut buffers.input[..FRAME_BYTES], &mut buffers.scratch)
            {
                Ok(Got::Bytes(count)) => self.dropped += count as u64,
                Ok(Got::Nothing) if back.wire.is_readable() => return Flow::More,
                Ok(Got::Nothing) => return Flow::Wait,
                Ok(Got::End) | Err(_) => return self.ended(buffers),
            }
            if self.dropped > MAX_DROPPED_BYTES {
                return Flow::Return(Cause::Slow);
            }
        }
        Flow::Wait
    }
}

impl Pair {
    /// Both sides have ended; but what the client sent behind its close frame would make closing its socket a reset.
    fn ended(&mut self, buffers: &mut Buffers) -> Flow {
        match self.sides[FRONT]
            .wire
            .recv(&mut buffers.input[..FRAME_BYTES], &mut buffers.scratch)
        {
            Ok(Got::Bytes(_)) => Flow::Return(Cause::Slow),
            _ => Flow::Return(Cause::Ended),
        }
    }
}

/// The second flow, too, unless the pair goes back; the more urgent one of both.
fn both(first: Flow, second: impl FnOnce() -> Flow) -> Flow {
    if let Flow::Return(_) = first {
        return first;
    }
    match (first, second()) {
        (_, Flow::Return(cause)) => Flow::Return(cause),
        (Flow::Wait, Flow::Wait) => Flow::Wait,
        _ => Flow::More,
    }
}

impl Side {
    /// Puts a close frame back among what is not decoded, as if it had just been read.
    fn unread_close(&mut self) {
        let Some(decoder) = &mut self.decoder else {
            return;
        };
        let key = (decoder.role == Role::Server).then_some([0; 4]);
        let mut frame = Vec::new();
        frame::push_frame(&mut frame, FIN | CLOSE, decoder.control_body(), key);
        self.input.splice(0..0, frame);
        decoder.control_opcode = 0;
        decoder.control_body_size = 0;
        decoder.control_frame_count = decoder.control_frame_count.saturating_sub(1);
    }
}

/// What one read of a side led to.
enum Moved {
    Nothing,
    Bytes(usize),
    End,
    Close,
    Unusual,
    Broken,
}

/// Moves what one read of raw bytes gives.
fn move_raw(src: &mut Side, dst: &mut Side, now: u64, buffers: &mut Buffers) -> Moved {
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
    let count = match result {
        Ok(Got::Bytes(count)) => count,
        Ok(Got::Nothing) => return Moved::Nothing,
        Ok(Got::End) => return Moved::End,
        Err(error) => {
            src.read_error = error;
            return Moved::Broken;
        }
    };
    src.slots = next_slots(src.slots, count);
    src.last_received = now;
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
fn move_frames(src: &mut Side, dst: &mut Side, now: u64, buffers: &mut Buffers) -> Moved {
    let asked = src.read_bytes;
    let count = match src.recv(&mut buffers.input[..asked], &mut buffers.scratch) {
        Ok(Got::Bytes(count)) => count,
        Ok(Got::Nothing) => return Moved::Nothing,
        Ok(Got::End) => return Moved::End,
        Err(error) => {
            src.read_error = error;
            return Moved::Broken;
        }
    };
    src.read_bytes = if count == asked {
        (asked * 2).min(MAX_READ_BYTES)
    } else {
        FRAME_BYTES
    };
    src.last_received = now;
    let Some(decoder) = &mut src.decoder else {
        return Moved::Broken;
    };
    let frames_before = decoder.control_frame_count;
    let found = &mut buffers.found;
    found.keep_pieces = dst.is_websocket();
    found.pieces.clear();
    found.ranges.clear();
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

impl Pair {
    /// Whether it can become too slow.
    pub fn may_be_slow(&self) -> bool {
        self.stage != Stage::Open || self.sides.iter().any(Side::is_blocked)
    }

    /// Whether a side has accepted nothing, or the ending has lasted, for longer than these nanoseconds.
    pub fn is_too_slow(&self, now: u64, max_blocked: u64, max_ending: u64) -> bool {
        let blocked = self
            .sides
            .iter()
            .any(|side| side.is_blocked() && now.saturating_sub(side.blocked_since) > max_blocked);
        blocked || (self.stage != Stage::Open && now.saturating_sub(self.stage_since) > max_ending)
    }

    pub fn figures(&self) -> Figures {
        let [front, back] = &self.sides;
        Figures {
            received: [front.received_bytes, back.received_bytes],
            last_payload: self.last_payload,
            last_received: [front.last_received, back.last_received],
            last_sent: [front.last_sent, back.last_sent],
            blocked_since: [front.blocked_since, back.blocked_since],
        }
    }
}
