//! A TLS connection on a descriptor that somebody else owns and that is not blocking, by rustls.
//!
//! Reading: socket → `Scratch::cipher` → rustls, a record at a time → the caller's buffer. What is left of a record,
//! and records beyond the budget of one call, wait in `input`. Writing: payload → rustls → `Scratch::encrypted` →
//! socket; what the kernel does not accept waits in `unsent`. The large buffers are those of a thread, so that an idle
//! connection has none.

use crate::client_hello::{look, Hello};
use crate::sys::{self, Errno};
use crate::tls_fault::{Fault, FaultKind};
use crate::wire::Got;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, ProtocolVersion, ServerConfig};
use std::os::fd::RawFd;
use std::sync::Arc;

/// Payload of a full record.
pub const RECORD_BYTES: usize = 16384;
const HEADER_BYTES: usize = 5;
/// What follows a header at most (RFC 5246 section 6.2.3).
const MAX_CIPHERTEXT_BYTES: usize = RECORD_BYTES + 2048;
/// What one read of the socket takes at most.
const READ_BYTES: usize = 256 * 1024;
/// Payload that is encrypted before it is handed to the kernel; whole records.
const WRITE_BYTES: usize = 8 * RECORD_BYTES;
/// What encryption adds to a record at most, with something to spare.
const RECORD_OVERHEAD: usize = 64;
/// Records decrypted in one call: each costs the same however few bytes are in it.
pub const MAX_RECORDS_PER_READ: usize = 128;
/// Records in a row that may give no payload.
pub const MAX_RECORDS_WITHOUT_PAYLOAD: u32 = 32;
/// Records of one handshake.
const MAX_HANDSHAKE_RECORDS: u32 = 512;
/// Reads of the socket in one call.
const MAX_FETCHES: usize = 64;
/// Payload after which a read is over, although more has come.
const GATHER_BYTES: usize = 2 * RECORD_BYTES;
/// Bytes that may wait for a peer that makes us reply and reads nothing.
const MAX_UNREAD_REPLIES: usize = 1 << 20;
/// Calls of rustls for one record: a full one holds at most 4,096 messages of a handshake.
const MAX_STEPS: usize = 3 * 4096;

/// An alert in the clear, while nothing is agreed.
const DECODE_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 50];

pub const HTTP_1_1: &[u8] = b"http/1.1";

/// The buffers of one thread, for all its connections.
pub struct Scratch {
    cipher: Vec<u8>,
    encrypted: Vec<u8>,
    plain: Vec<u8>,
}

impl Scratch {
    pub fn new() -> Self {
        Scratch {
            cipher: vec![0; READ_BYTES],
            encrypted: vec![0; WRITE_BYTES + (WRITE_BYTES / RECORD_BYTES + 2) * RECORD_OVERHEAD],
            plain: vec![0; WRITE_BYTES],
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// How a listener does TLS: for clients that offer application protocols without http/1.1, nothing is negotiated, as
/// OpenSSL has it, and rustls would reject them.
pub struct ServerConfigs {
    pub usual: Arc<ServerConfig>,
    pub without_alpn: Arc<ServerConfig>,
}

enum Role {
    /// A server whose client has not sent its ClientHello.
    Listening(Arc<ServerConfigs>),
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// What rustls wants next.
enum Next {
    /// To be called again.
    Again,
    /// Nothing, if that was all of the input: it was payload.
    Payload,
    /// More input.
    Input,
    /// Nothing: the peer has sent close_notify.
    Closed,
    Failed(rustls::Error),
}

/// Where payload goes: to the caller's buffer, and what does not fit there waits.
struct Sink<'a> {
    out: &'a mut [u8],
    len: usize,
    held: &'a mut Vec<u8>,
}

impl Sink<'_> {
    fn put(&mut self, payload: &[u8]) {
        let fits = payload.len().min(self.out.len() - self.len);
        let (now, later) = payload.split_at(fits);
        self.out[self.len..self.len + fits].copy_from_slice(now);
        self.len += fits;
        self.held.extend_from_slice(later);
    }

    fn has_payload(&self) -> bool {
        self.len > 0 || !self.held.is_empty()
    }
}

/// Handles one state of rustls: takes payload, encodes what TLS itself has to send.
fn absorb<D>(
    status: UnbufferedStatus<'_, '_, D>,
    sink: &mut Sink<'_>,
    replies: &mut Vec<u8>,
    payload: &mut bool,
) -> (usize, Next) {
    let mut discard = status.discard;
    let state = match status.state {
        Ok(state) => state,
        Err(error) => return (discard, Next::Failed(error)),
    };
    let next = match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        *payload |= !record.payload.is_empty();
                        sink.put(record.payload);
                    }
                    Err(error) => return (discard, Next::Failed(error)),
                }
            }
            Next::Payload
        }
        ConnectionState::EncodeTlsData(mut data) => {
            let at = replies.len();
            if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
                replies.resize(at + size.required_size, 0);
            }
            match data.encode(&mut replies[at..]) {
                Ok(count) => replies.truncate(at + count),
                Err(_) => replies.truncate(at),
            }
            Next::Again
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Next::Again
        }
        ConnectionState::PeerClosed | ConnectionState::Closed => Next::Closed,
        _ => Next::Input, // BlockedHandshake, WriteTraffic; early data is not accepted
    };
    (discard, next)
}

/// Encrypts, or with no data queues close_notify; `None` if the connection is not ready for it.
fn encrypt<D>(
    status: UnbufferedStatus<'_, '_, D>,
    data: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> Option<usize> {
    let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state else {
        return None;
    };
    for _ in 0..2 {
        let result = match data {
            Some(data) => traffic.encrypt(data, out),
            None => traffic.queue_close_notify(out),
        };
        match result {
            Ok(count) => return Some(count),
            Err(EncryptError::InsufficientSize(size)) => out.resize(size.required_size, 0),
            Err(EncryptError::EncryptExhausted) => return None,
        }
    }
    None
}

macro_rules! with_rustls {
    ($role:expr, $input:expr, |$status:ident| $do:expr, $none:expr) => {
        match $role {
            Role::Server(connection) => {
                let $status = connection.process_tls_records($input);
                $do
            }
            Role::Client(connection) => {
                let $status = connection.process_tls_records($input);
                $do
            }
            Role::Listening(_) => $none,
        }
    };
}

macro_rules! fact {
    ($role:expr, $default:expr, |$connection:ident| $do:expr) => {
        match $role {
            Role::Server($connection) => $do,
            Role::Client($connection) => $do,
            Role::Listening(_) => $default,
        }
    };
}

/// Where the first record of some ciphertext ends; `None` if it has not come whole. A header that is none of TLS counts
/// as a record: rustls fails at it.
fn record_end(data: &[u8]) -> Option<usize> {
    let header = data.get(..HEADER_BYTES)?;
    let length = usize::from(header[3]) << 8 | usize::from(header[4]);
    if !(20..25).contains(&header[0]) || length > MAX_CIPHERTEXT_BYTES {
        return Some(HEADER_BYTES);
    }
    let end = HEADER_BYTES + length;
    (end <= data.len()).then_some(end)
}

/// Records that one call has processed.
#[derive(Default)]
struct Turn {
    records: usize,
    /// Those with payload.
    with_payload: usize,
    /// Whether the last read of the socket gave anything.
    fetched_any: bool,
}

/// A TLS connection.
pub struct TlsConn {
    pub fd: RawFd,
    /// Whether a read may give something; cleared by a read that found nothing, or less than asked for.
    pub readable: bool,
    /// Whether more may be left after a short read: after an end was reported.
    pub read_until_empty: bool,
    /// Whether an event reported an end or an error; reads go on until they find it.
    pub hung_up: bool,
    /// Why the connection failed, where it was not the system.
    pub fault: Option<Fault>,
    /// Bytes that the kernel has accepted.
    pub sent_bytes: u64,
    /// The name that a client asked for, as it came; empty for none.
    pub server_name: Box<str>,
    role: Role,
    /// Ciphertext that was read and not discarded by rustls.
    input: Vec<u8>,
    /// How much of it rustls has seen: the beginning of a message that is cut into several records.
    seen: usize,
    /// Payload that did not fit into the buffer of a read.
    held: Vec<u8>,
    /// How reading has ended; told once all payload was given.
    end: Option<Result<(), Errno>>,
    /// Whether a read has told so.
    end_told: bool,
    unsent: Vec<u8>,
    /// How much of it the kernel has accepted.
    accepted: usize,
    without_payload: u32,
    handshake_records: u32,
    close_notify: bool,
    /// Whether the last read gave several records.
    sends_bursts: bool,
    /// Whether rustls has failed; it is not called again.
    broken: bool,
}

impl TlsConn {
    /// The server's end of a connection.
    pub fn server(fd: RawFd, configs: Arc<ServerConfigs>) -> Self {
        Self::new(fd, Role::Listening(configs))
    }

    /// The client's end of a connection, which is to send first.
    pub fn client(
        fd: RawFd,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::new(fd, Role::Client(Box::new(connection))))
    }

    fn new(fd: RawFd, role: Role) -> Self {
        TlsConn {
            fd,
            readable: true,
            read_until_empty: false,
            hung_up: false,
            fault: None,
            sent_bytes: 0,
            server_name: Box::default(),
            role,
            input: Vec::new(),
            seen: 0,
            held: Vec::new(),
            end: None,
            end_told: false,
            unsent: Vec::new(),
            accepted: 0,
            without_payload: 0,
            handshake_records: 0,
            close_notify: false,
            sends_bursts: false,
            broken: false,
        }
    }

    fn is_handshaking(&self) -> bool {
        fact!(&self.role, true, |connection| connection.is_handshaking())
    }

    /// Goes on with the handshake; gives whether it is complete, and all of our part handed to the kernel. If not: wait
    /// for the socket, to be written if `unsent_bytes`, else to be read.
    pub fn handshake(&mut self, scratch: &mut Scratch) -> Result<bool, Errno> {
        let result = self.shake(scratch);
        if result.is_err() && self.fault.is_some() {
            let _ = self.flush(); // the alert
        }
        result
    }

    fn shake(&mut self, scratch: &mut Scratch) -> Result<bool, Errno> {
        let Scratch { cipher, .. } = scratch;
        let mut sink = Sink {
            out: &mut [],
            len: 0,
            held: &mut std::mem::take(&mut self.held),
        };
        if matches!(self.role, Role::Client(_)) && self.handshake_records == 0 {
            self.step(cipher, 0, &mut sink)?; // the ClientHello
        }
        for _ in 0..MAX_FETCHES {
            if !self.flush()? {
                return Ok(false);
            }
            self.shake_on_input(&mut sink)?;
            if !self.is_handshaking() {
                self.held = std::mem::take(sink.held);
                self.without_payload = 0;
                return self.flush();
            }
            if !self.unsent.is_empty() {
                continue;
            }
            match sys::recv(self.fd, &mut cipher[..RECORD_BYTES * 2])? {
                None => return Ok(false),
                Some(0) => return Err(self.truncated()),
                Some(count) => self.input.extend_from_slice(&cipher[..count]),
            }
        }
        Ok(false)
    }

    /// Hands rustls the records that have come, up to the end of the handshake.
    fn shake_on_input(&mut self, sink: &mut Sink<'_>) -> Result<(), Errno> {
        self.answer_hello()?;
        if matches!(self.role, Role::Listening(_)) {
            return Ok(());
        }
        let mut input = std::mem::take(&mut self.input);
        let mut result = Ok(());
        while result.is_ok() && self.is_handshaking() {
            let Some(end) = input.get(self.seen..).and_then(record_end) else {
                break;
            };
            self.handshake_records += 1;
            if self.handshake_records > MAX_HANDSHAKE_RECORDS {
                let text =
                    format!("more than {MAX_HANDSHAKE_RECORDS} TLS records in one handshake");
                result = Err(self.fail(Fault::new(FaultKind::Flood, text), libc::EPROTO));
                break;
            }
            let end = self.seen + end;
            match self.step(&mut input, end, sink) {
                Ok((discard, _)) => {
                    input.drain(..discard.min(input.len()));
                    self.seen = end.saturating_sub(discard);
                }
                Err(error) => result = Err(error),
            }
        }
        self.input = input;
        result
    }

    /// Makes the connection of a server once the ClientHello is there.
    fn answer_hello(&mut self) -> Result<(), Errno> {
        let Role::Listening(configs) = &self.role else {
            return Ok(());
        };
        if let Some(reason) = not_tls(&self.input) {
            return Err(self.fail(Fault::named(reason), libc::EPROTO));
        }
        let mut config = &configs.usual;
        match look(&self.input, HTTP_1_1) {
            Hello::Incomplete => return Ok(()),
            Hello::Unreadable => {}
            Hello::Whole(hello) => {
                if hello.other_protocols {
                    config = &configs.without_alpn;
                }
                if !hello.name.is_ascii() {
                    return Err(self.fail(Fault::named("CALLBACK_FAILED"), libc::EPROTO));
                }
                self.server_name = String::from_utf8(hello.name).unwrap_or_default().into();
            }
        }
        match UnbufferedServerConnection::new(config.clone()) {
            Ok(connection) => self.role = Role::Server(Box::new(connection)),
            Err(error) => {
                let fault = Fault::from_tls(&error, "");
                return Err(self.fail(fault, libc::EPROTO));
            }
        }
        Ok(())
    }

    /// Hands rustls the first `end` bytes of a buffer, and does what it wants until it wants more. Gives how many bytes
    /// it has done with, and whether there was payload among them.
    fn step(
        &mut self,
        buffer: &mut [u8],
        end: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(usize, bool), Errno> {
        let mut start = 0;
        let mut payload = false;
        let mut replies = std::mem::take(&mut self.unsent);
        let mut failure = None;
        for _ in 0..MAX_STEPS {
            let input = buffer.get_mut(start..end).unwrap_or_default();
            let (discard, next) = with_rustls!(
                &mut self.role,
                input,
                |status| absorb(status, sink, &mut replies, &mut payload),
                (0, Next::Input)
            );
            start = (start + discard).min(end);
            match next {
                Next::Again => {}
                Next::Payload => {
                    if start == end && !fact!(&self.role, false, |it| it.wants_write()) {
                        break;
                    }
                }
                Next::Failed(error) => failure = failure.or(Some(error)),
                Next::Input => break,
                Next::Closed => {
                    if failure.is_none() {
                        self.end = Some(Ok(()));
                    }
                    break;
                }
            }
            if failure.is_some() && !fact!(&self.role, false, |it| it.wants_write()) {
                break; // the alert is encoded
            }
        }
        self.unsent = replies;
        match failure {
            None => Ok((start, payload)),
            Some(error) => {
                self.broken = true;
                if self.unsent.is_empty() && self.version().is_empty() {
                    self.unsent.extend_from_slice(&DECODE_ERROR); // rustls sends no alert for all that cannot be read
                }
                let mut fault = Fault::from_tls(&error, &flood_text());
                if fault.reason == "NO_SUITABLE_KEY_SHARE" && self.version() == "TLSv1.2" {
                    fault = Fault::named("NO_SHARED_CIPHER");
                }
                Err(self.fail(fault, libc::EPROTO))
            }
        }
    }

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
    fn drop_after_end(&mut self) {
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

    /// Notes a failure; nothing more is read.
    fn fail(&mut self, fault: Fault, errno: Errno) -> Errno {
        if self.fault.is_none() {
            self.fault = Some(fault);
        }
        self.end = Some(Err(errno));
        errno
    }

    fn truncated(&mut self) -> Errno {
        let text = "truncated: the connection ended without close_notify".to_owned();
        let errno = self.fail(Fault::new(FaultKind::Truncated, text), libc::ECONNRESET);
        self.drop_after_end();
        errno
    }

    /// Encrypts all of it and hands it to the kernel; gives whether that accepted everything.
    pub fn send(&mut self, data: &[u8], scratch: &mut Scratch) -> Result<bool, Errno> {
        for chunk in data.chunks(WRITE_BYTES) {
            self.send_chunk(chunk, &mut scratch.encrypted)?;
        }
        Ok(self.unsent.is_empty())
    }

    /// Sends several buffers, which fill the records together.
    pub fn send_parts<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a [u8]>,
        scratch: &mut Scratch,
    ) -> Result<bool, Errno> {
        let mut parts = parts.filter(|it| !it.is_empty());
        let mut part: &[u8] = &[];
        self.send_from(scratch, |room| {
            let mut filled = 0;
            while filled < room.len() {
                if part.is_empty() {
                    match parts.next() {
                        Some(next) => part = next,
                        None => break,
                    }
                }
                let (now, later) = part.split_at(part.len().min(room.len() - filled));
                room[filled..filled + now.len()].copy_from_slice(now);
                filled += now.len();
                part = later;
            }
            filled
        })
    }

    /// Sends what `fill` puts into the room it is given, until it puts nothing there; all but the last has to be full.
    pub fn send_from(
        &mut self,
        scratch: &mut Scratch,
        mut fill: impl FnMut(&mut [u8]) -> usize,
    ) -> Result<bool, Errno> {
        loop {
            let count = fill(&mut scratch.plain);
            let Some(data) = scratch.plain.get(..count).filter(|it| !it.is_empty()) else {
                return Ok(self.unsent.is_empty());
            };
            self.send_chunk(data, &mut scratch.encrypted)?;
        }
    }

    fn send_chunk(&mut self, data: &[u8], encrypted: &mut Vec<u8>) -> Result<(), Errno> {
        let count = self.encrypt(Some(data), encrypted)?;
        self.send_encrypted(encrypted.get(..count).unwrap_or_default())
    }

    /// Encrypts data, or close_notify; what TLS itself has to send is put before it.
    fn encrypt(&mut self, data: Option<&[u8]>, out: &mut Vec<u8>) -> Result<usize, Errno> {
        if self.broken {
            return Err(libc::EPIPE);
        }
        let mut held = std::mem::take(&mut self.held);
        let mut nowhere = Sink {
            out: &mut [],
            len: 0,
            held: &mut held,
        };
        let mut input = std::mem::take(&mut self.input);
        let seen = self.seen;
        let stepped = self.step(&mut input, seen, &mut nowhere); // a message that has not come whole stays as it is
        self.held = held;
        stepped?;
        let count = with_rustls!(
            &mut self.role,
            input.get_mut(..seen).unwrap_or_default(),
            |status| encrypt(status, data, out),
            None
        );
        self.input = input;
        count.ok_or(libc::EPIPE)
    }

    /// Hands ciphertext to the kernel, behind what that has not accepted so far.
    fn send_encrypted(&mut self, mut data: &[u8]) -> Result<(), Errno> {
        if self.flush()? {
            let count = sys::send(self.fd, data, &[])?;
            self.sent_bytes += count as u64;
            data = data.get(count..).unwrap_or_default();
        }
        self.unsent.extend_from_slice(data);
        Ok(())
    }

    /// Writes what is unsent; gives whether nothing is left.
    pub fn flush(&mut self) -> Result<bool, Errno> {
        while let Some(rest) = self.unsent.get(self.accepted..).filter(|it| !it.is_empty()) {
            match sys::send(self.fd, rest, &[])? {
                0 => return Ok(false),
                count => {
                    self.accepted += count;
                    self.sent_bytes += count as u64;
                }
            }
        }
        self.unsent = Vec::new();
        self.accepted = 0;
        Ok(true)
    }

    /// Ciphertext that the kernel has not accepted.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent.len() - self.accepted
    }

    /// Whether there is input that no event will report: payload, records, or the end.
    pub fn has_buffered(&self) -> bool {
        !self.held.is_empty()
            || (self.end.is_some() && !self.end_told)
            || self
                .input
                .get(self.seen..)
                .is_some_and(|it| record_end(it).is_some())
    }

    /// Sends close_notify, once; gives whether nothing is unsent. The socket's own end is the owner's.
    pub fn close_notify(&mut self, scratch: &mut Scratch) -> Result<bool, Errno> {
        if !self.close_notify {
            self.close_notify = true;
            if let Ok(count) = self.encrypt(None, &mut scratch.encrypted) {
                self.send_encrypted(scratch.encrypted.get(..count).unwrap_or_default())?;
            }
        }
        self.flush()
    }

    /// Whether reading has ended in order.
    pub fn has_ended(&self) -> bool {
        matches!(self.end, Some(Ok(())))
    }

    /// The version of TLS, as OpenSSL writes it; empty before the handshake.
    pub fn version(&self) -> &'static str {
        match fact!(&self.role, None, |connection| connection.protocol_version()) {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "",
        }
    }

    /// The cipher suite, as OpenSSL names it.
    pub fn cipher(&self) -> String {
        fact!(&self.role, None, |connection| connection
            .negotiated_cipher_suite())
        .map(|suite| openssl_suite(&format!("{:?}", suite.suite())))
        .unwrap_or_default()
    }

    /// The application protocol that was negotiated.
    pub fn alpn(&self) -> Option<&[u8]> {
        fact!(&self.role, None, |connection| connection.alpn_protocol())
    }

    /// The certificates that the peer sent, its own first.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        fact!(&self.role, None, |connection| connection
            .peer_certificates())
        .unwrap_or_default()
    }
}

fn flood_text() -> String {
    format!(
        "more than {MAX_RECORDS_WITHOUT_PAYLOAD} TLS records in a row without payload, such as key updates"
    )
}

/// Why the first bytes of a client are not TLS; OpenSSL's names.
fn not_tls(data: &[u8]) -> Option<&'static str> {
    const METHODS: [&[u8]; 4] = [b"GET ", b"POST", b"HEAD", b"PUT "];
    let start = data.get(..HEADER_BYTES)?;
    if METHODS.iter().any(|method| start.starts_with(method)) {
        return Some("HTTP_REQUEST");
    }
    if start == b"CONNE" {
        return Some("HTTPS_PROXY_REQUEST");
    }
    (start[0] != 22 || start[1] != 3).then_some("WRONG_VERSION_NUMBER")
}

/// `TLS13_AES_128_GCM_SHA256` is TLS_…, `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256` is ECDHE-RSA-AES128-GCM-SHA256.
fn openssl_suite(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("TLS13_") {
        return format!("TLS_{rest}");
    }
    name.trim_start_matches("TLS_")
        .trim_end_matches("_POLY1305_SHA256")
        .replace("_WITH_AES_", "_AES")
        .replace("_WITH_", "_")
        .replace("CHACHA20", "CHACHA20-POLY1305")
        .replace('_', "-")
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
