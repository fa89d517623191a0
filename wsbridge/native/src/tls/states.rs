//! The unbuffered interface of rustls: what it is handed, and what it wants next.

use super::{ServerConfigs, RECORD_BYTES};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use std::sync::Arc;

pub const HEADER_BYTES: usize = 5;
/// What follows a header at most (RFC 5246 section 6.2.3).
pub const MAX_CIPHERTEXT_BYTES: usize = RECORD_BYTES + 2048;

/// A connection of rustls.
pub enum Role {
    /// A server whose client has not sent its ClientHello.
    Listening(Arc<ServerConfigs>),
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// What rustls wants next.
pub enum Next {
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
pub struct Sink<'a> {
    pub out: &'a mut [u8],
    pub len: usize,
    pub held: &'a mut Vec<u8>,
}

impl Sink<'_> {
    pub fn put(&mut self, payload: &[u8]) {
        let fits = payload.len().min(self.out.len() - self.len);
        let (now, later) = payload.split_at(fits);
        self.out[self.len..self.len + fits].copy_from_slice(now);
        self.len += fits;
        self.held.extend_from_slice(later);
    }

    pub fn has_payload(&self) -> bool {
        self.len > 0 || !self.held.is_empty()
    }
}

/// Handles one state of rustls: takes payload, encodes what TLS itself has to send.
pub fn absorb<D>(
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
pub fn encrypt<D>(
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
pub fn record_end(data: &[u8]) -> Option<usize> {
    let header = data.get(..HEADER_BYTES)?;
    let length = usize::from(header[3]) << 8 | usize::from(header[4]);
    if !(20..25).contains(&header[0]) || length > MAX_CIPHERTEXT_BYTES {
        return Some(HEADER_BYTES);
    }
    let end = HEADER_BYTES + length;
    (end <= data.len()).then_some(end)
}
