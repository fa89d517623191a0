//! One side of a pair: what is read from it and written to it, with the counters and times of both.

use crate::buffers::{Buffers, MaskKeys, FRAME_BYTES};
use crate::frame::{self, Decoder, Role, CLOSE, FIN, PONG};
use crate::sys::Errno;
use crate::tls::Scratch;
use crate::wire::{Got, Wire};
use std::ops::Range;

/// Seconds over which control and empty frames are counted, in nanoseconds.
const CONTROL_FLOOD_WINDOW: u64 = 5_000_000_000;

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
    pub decoder: Option<Box<Decoder>>,
    /// Whether nothing has come from a client that must not speak HTTP.
    pub guarded: bool,
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
    /// Whether an event tells when it accepts bytes again.
    pub watches_output: bool,
    /// What was read from it and not decoded: it comes before what the wire gives.
    pub input: Vec<u8>,
    /// Whether our close frame is on its way: nothing may follow it.
    close_sent: bool,
    /// Whether an event reported an end or an error.
    pub hung_up: bool,
    pub read_error: Errno,
    pub write_error: Errno,
    /// Frames of raw bytes that its next read takes at most.
    pub slots: usize,
    /// Bytes that its next read of frames takes at most.
    pub read_bytes: usize,
}

impl Side {
    /// A side that speaks plain bytes.
    pub fn raw(wire: Wire) -> Self {
        let control = ControlLimit {
            rate: 0,
            window_start: 0,
            window_base: 0,
        };
        Side::new(wire, None, FRAME_BYTES, control)
    }

    pub fn new(
        wire: Wire,
        decoder: Option<Box<Decoder>>,
        max_frame_bytes: usize,
        control: ControlLimit,
    ) -> Self {
        let sent_before = wire.sent_bytes();
        Side {
            wire,
            decoder,
            guarded: false,
            max_frame_bytes: max_frame_bytes.max(1),
            control,
            sent_before,
            pending_pong: None,
            received_bytes: 0,
            last_received: 0,
            last_sent: 0,
            blocked_since: 0,
            watches_output: false,
            input: Vec::new(),
            close_sent: false,
            hung_up: false,
            read_error: 0,
            write_error: 0,
            slots: 1,
            read_bytes: FRAME_BYTES,
        }
    }

    pub fn is_websocket(&self) -> bool {
        self.decoder.is_some()
    }

    pub fn masks(&self) -> bool {
        matches!(&self.decoder, Some(decoder) if decoder.role == Role::Client)
    }

    /// Whether there is input that no event will tell of.
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Reads from what is left of an earlier read, else from the wire.
    pub fn recv(&mut self, buffer: &mut [u8], scratch: &mut Scratch) -> Result<Got, Errno> {
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
    pub fn send(&mut self, first: &[u8], second: &[u8], now: u64, scratch: &mut Scratch) -> bool {
        let before = self.wire.sent_bytes();
        let result = self.wire.send(first, second, scratch);
        if self.wire.sent_bytes() != before {
            self.last_sent = now;
        }
        self.note_write(result, now)
    }

    /// Writes parts of a buffer, in order; false if the connection is broken.
    pub fn send_parts(
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

    pub(crate) fn mask_key(&self, keys: &mut MaskKeys) -> Result<Option<[u8; 4]>, ()> {
        if self.masks() {
            keys.draw().map(Some).ok_or(())
        } else {
            Ok(None)
        }
    }

    /// Writes a control frame; only while nothing is unsent. False if the connection is broken.
    pub fn send_control(
        &mut self,
        opcode: u8,
        body: &[u8],
        now: u64,
        buffers: &mut Buffers,
    ) -> bool {
        let Ok(key) = self.mask_key(&mut buffers.keys) else {
            return false;
        };
        self.close_sent |= opcode == CLOSE;
        buffers.output.clear();
        frame::push_frame(&mut buffers.output, FIN | opcode, body, key);
        self.send(&buffers.output, &[], now, &mut buffers.scratch)
    }

    /// Answers a ping, unless our close frame came first; behind what is unsent only the latest answer is kept (RFC 6455
    /// section 5.5.3).
    pub fn answer_ping(&mut self, body: Vec<u8>, now: u64, buffers: &mut Buffers) -> bool {
        if self.close_sent {
            return true;
        }
        if self.is_blocked() {
            self.pending_pong = Some(body);
            return true;
        }
        self.send_control(PONG, &body, now, buffers)
    }

    /// Whether it has sent more control and empty frames than it may.
    pub fn floods(&mut self, now: u64) -> bool {
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

    /// Puts a close frame back among what is not decoded, as if it had just been read.
    pub fn unread_close(&mut self) {
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
