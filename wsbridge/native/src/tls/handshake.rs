//! The handshake, up to a limit of records.

use super::states::{record_end, Role, Sink, HEADER_BYTES};
use super::{Scratch, TlsConn, HTTP_1_1, MAX_FETCHES, RECORD_BYTES};
use crate::client_hello::{look, Hello};
use crate::sys::{self, Errno};
use crate::tls_fault::{Fault, FaultKind};
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;

/// Records of one handshake.
const MAX_HANDSHAKE_RECORDS: u32 = 512;

impl TlsConn {
    pub(super) fn is_handshaking(&self) -> bool {
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
                let name = String::from_utf8(hello.name).unwrap_or_default();
                if !name.is_empty() && ServerName::try_from(name.as_str()).is_err() {
                    let text = "the server name is not a DNS name".to_owned();
                    return Err(self.fail(Fault::new(FaultKind::Name, text), libc::EPROTO));
                }
                self.server_name = name.into();
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
