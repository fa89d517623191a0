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

use crate::buffers::{Buffers, FRAME_BYTES};
use crate::frame::{self, Role, CLOSE};
use crate::side::Side;
use crate::sys;
use crate::transfer::{move_frames, move_raw, Moved};
use crate::wire::Got;

/// Reads in one turn of one direction; then other pairs have theirs.
const MAX_READS_PER_TURN: usize = 4;
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
    /// A bug, or no randomness: it cannot go on.
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
                Moved::Broken => return Flow::Return(self.broken()),
                Moved::Close => return self.close(from, now, buffers),
            }
        }
        Flow::More
    }

    /// Why a pair broke: an error of a side; else there was no randomness for a masking key, and what was read is lost.
    fn broken(&self) -> Cause {
        let known = self
            .sides
            .iter()
            .any(|side| side.read_error != 0 || side.write_error != 0);
        if known {
            Cause::Error
        } else {
            Cause::Panic
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
        let fd = front.wire.fd();
        sys::hold_segments(fd, true);
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
            sys::hold_segments(fd, false);
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
