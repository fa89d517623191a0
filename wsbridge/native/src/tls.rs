//! A TLS connection on a descriptor that somebody else owns and that is not blocking, by rustls.
//!
//! Reading: socket → `Scratch::cipher` → rustls, a record at a time → the caller's buffer. What is left of a record,
//! and records beyond the budget of one call, wait in `input`. Writing: payload → rustls → `Scratch::encrypted` →
//! socket; what the kernel does not accept waits in `unsent`. The large buffers are those of a thread, so that an idle
//! connection has none.

#[macro_use]
mod states;
mod handshake;
mod reading;
mod writing;

use crate::sys::Errno;
use crate::tls_fault::{Fault, FaultKind};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, ServerConfig};
use states::{absorb, record_end, Next, Role, Sink};
use std::os::fd::RawFd;
use std::sync::Arc;

/// Payload of a full record.
pub const RECORD_BYTES: usize = 16384;
/// What one read of the socket takes at most.
const READ_BYTES: usize = 256 * 1024;
/// Payload that is encrypted before it is handed to the kernel; whole records.
const WRITE_BYTES: usize = 8 * RECORD_BYTES;
/// What encryption adds to a record at most, with something to spare.
const RECORD_OVERHEAD: usize = 64;
/// Records in a row that may give no payload.
pub const MAX_RECORDS_WITHOUT_PAYLOAD: u32 = 32;
/// Reads of the socket in one call.
const MAX_FETCHES: usize = 64;
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

    /// Whether there is input that no event will report: payload, records, or the end.
    pub fn has_buffered(&self) -> bool {
        !self.held.is_empty()
            || (self.end.is_some() && !self.end_told)
            || self
                .input
                .get(self.seen..)
                .is_some_and(|it| record_end(it).is_some())
    }

    /// What was read and rustls is not done with: all that came, where it has not begun.
    pub fn unprocessed(&self) -> &[u8] {
        &self.input
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
mod tests;
