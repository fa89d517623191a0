//! Payload from the socket: what one call reads and decrypts, and what a peer may send without payload.

use super::states::{record_end, Sink, MAX_CIPHERTEXT_BYTES};
use super::{flood_text, Scratch, TlsConn, MAX_FETCHES, MAX_RECORDS_WITHOUT_PAYLOAD, RECORD_BYTES};
use crate::sys::{self, Errno};
use crate::tls_fault::{Fault, FaultKind};
use crate::wire::Got;

/// Records decrypted in one call: each costs the same however few bytes are in it.
pub const MAX_RECORDS_PER_READ: usize = 128;
/// Payload after which a read is over, although more has come.
const GATHER_BYTES: usize = 2 * RECORD_BYTES;
/// Bytes that may wait for a peer that makes us reply and reads nothing.
const MAX_UNREAD_REPLIES: usize = 1 << 20;

/// Records that one call has processed.
#[derive(Default)]
struct Turn {
    records: usize,
    /// Those with payload.
    with_payload: usize,
    /// Whether the last read of the socket gave anything.
    fetched_any: bool,
}

impl TlsConn {
    /// Reads payload, that of several records if they have come. `Got::Nothing` with `readable` still set: this turn is
    /// over, call again. `out` should have room for a full record.
    pub fn recv(&mut self, out: &mut [u8], scratch: &mut Scratch) -> Result<Got, Errno> {
        if !self.held.is_empty() {
            return Ok(Got::Bytes(self.give_held(out)));
        }
        if self.end.is_none() && !self.broken {
            let before = self.unsent.len();
            let mut held = std::mem::take(&mut self.held);
            let mut sink = Sink {
                out,
                len: 0,
                held: &mut held,
            };
            self.read_turn(&mut sink, &mut scratch.cipher);
            let count = sink.len;
            self.held = held;
            if self.unsent.len() > before {
                self.send_replies();
            }
            if count > 0 {
                self.readable |= self.has_buffered();
                return Ok(Got::Bytes(count));
            }
        }
        match self.end {
            None => Ok(Got::Nothing),
            Some(end) => {
                self.readable = false;
                self.end_told = true;
                end.map(|()| Got::End)
            }
        }
    }

    fn give_held(&mut self, out: &mut [u8]) -> usize {
        let count = self.held.len().min(out.len());
        out[..count].copy_from_slice(&self.held[..count]);
        if count == self.held.len() {
            self.held = Vec::new();
        } else {
            self.held.drain(..count);
        }
        self.readable = true;
        count
    }

    /// Decrypts what waits, then what the socket has, until there is payload.
    fn read_turn(&mut self, sink: &mut Sink<'_>, cipher: &mut [u8]) {
        let mut turn = Turn::default();
        if !self.input.is_empty() {
            let mut input = std::mem::take(&mut self.input);
            let done = self.decrypt(&mut input, sink, &mut turn);
            if done < input.len() {
                input.drain(..done);
                self.input = input;
            }
            self.drop_after_end();
        }
        for _ in 0..MAX_FETCHES {
            if self.end.is_some() || turn.records >= MAX_RECORDS_PER_READ {
                break;
            }
            if sink.has_payload() && !self.gathers(sink, &turn) {
                break;
            }
            if !self.readable && !sink.has_payload() {
                break;
            }
            self.fetch(sink, cipher, &mut turn);
        }
        self.sends_bursts = turn.with_payload > 1;
    }

    /// Whether a peer that sends bursts of records is asked for more of them: then all are relayed in one write, which
    /// costs as much as that of a single record. One whose last read gave one record waits for answers, and is not.
    fn gathers(&self, sink: &Sink<'_>, turn: &Turn) -> bool {
        (turn.with_payload > 1 || self.sends_bursts)
            && turn.fetched_any
            && sink.len < GATHER_BYTES
            && sink.out.len() - sink.len > RECORD_BYTES
            && sink.held.is_empty()
            && !self.hung_up
    }

    /// Reads the socket once, and decrypts what it gave.
    fn fetch(&mut self, sink: &mut Sink<'_>, cipher: &mut [u8], turn: &mut Turn) {
        let before = self.input.len();
        let room = (sink.out.len() - sink.len).max(RECORD_BYTES + MAX_CIPHERTEXT_BYTES);
        let size = (before + room).min(cipher.len());
        if before >= size {
            let text = "a message of TLS in more records than it needs".to_owned();
            self.fail(Fault::new(FaultKind::Flood, text), libc::EPROTO);
            return;
        }
        cipher[..before].copy_from_slice(&self.input);
        turn.fetched_any = false;
        let count = match sys::recv(self.fd, &mut cipher[before..size]) {
            Ok(Some(count)) => count,
            Ok(None) => {
                self.readable = false;
                return;
            }
            Err(error) => {
                self.end = Some(Err(error));
                return;
            }
        };
        if count == 0 {
            self.truncated();
            return;
        }
        if before + count < size && !self.read_until_empty && !self.hung_up {
            self.readable = false;
        }
        turn.fetched_any = true;
        let filled = &mut cipher[..before + count];
        let done = self.decrypt(filled, sink, turn);
        self.input = cipher[done..before + count].to_vec();
        self.drop_after_end();
    }

    /// Drops ciphertext behind the end; what rustls has seen of a message it is handed again at each call.
    pub(super) fn drop_after_end(&mut self) {
        if self.end.is_some() {
            self.input.truncate(self.seen);
            self.input.shrink_to_fit();
        }
    }

    /// Decrypts records up to the budget of the turn; gives how many bytes are done with.
    fn decrypt(&mut self, buffer: &mut [u8], sink: &mut Sink<'_>, turn: &mut Turn) -> usize {
        let mut start = 0;
        while turn.records < MAX_RECORDS_PER_READ && self.end.is_none() {
            if sink.has_payload()
                && sink.out.len() - sink.len < RECORD_BYTES
                && !sink.held.is_empty()
            {
                break;
            }
            let Some(end) = buffer.get(start + self.seen..).and_then(record_end) else {
                break;
            };
            turn.records += 1;
            let end = self.seen + end;
            let Some(rest) = buffer.get_mut(start..) else {
                break;
            };
            match self.step(rest, end, sink) {
                Ok((discard, payload)) => {
                    start += discard;
                    self.seen = end.saturating_sub(discard);
                    turn.with_payload += usize::from(payload);
                    self.count_payload(payload);
                }
                Err(_) => break,
            }
        }
        start
    }

    fn count_payload(&mut self, payload: bool) {
        if payload {
            self.without_payload = 0;
            return;
        }
        self.without_payload += 1;
        if self.without_payload > MAX_RECORDS_WITHOUT_PAYLOAD && self.end.is_none() {
            self.fail(Fault::new(FaultKind::Flood, flood_text()), libc::EPROTO);
        }
    }

    fn send_replies(&mut self) {
        if let Err(error) = self.flush() {
            self.end = self.end.or(Some(Err(error)));
        } else if self.unsent_bytes() > MAX_UNREAD_REPLIES {
            let text = "does not read the replies to its key updates".to_owned();
            self.fail(Fault::new(FaultKind::Unread, text), libc::ENOBUFS);
        }
    }
}
