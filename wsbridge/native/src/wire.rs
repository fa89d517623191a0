//! The bytes of one connection, plain or TLS, on a descriptor that is not blocking.

use crate::sys::{self, Errno};
use std::os::fd::RawFd;

/// What a read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    Bytes(usize),
    /// Nothing now; an event will tell.
    Nothing,
    /// The orderly end of what the peer sends: FIN, under TLS close_notify.
    End,
}

/// A plain socket.
pub struct Plain {
    pub fd: RawFd,
    /// Whether a read may give something; only a read that found nothing, or less than asked for, clears it.
    pub readable: bool,
    /// Whether more may be left after a short read: after an end was reported, and on Unix sockets.
    pub read_until_empty: bool,
    /// What the kernel has not accepted.
    pub unsent: Vec<u8>,
    sent: usize,
}

impl Plain {
    pub fn new(fd: RawFd, read_until_empty: bool) -> Self {
        Plain {
            fd,
            readable: true,
            read_until_empty,
            unsent: Vec::new(),
            sent: 0,
        }
    }

    pub fn recv(&mut self, buffer: &mut [u8]) -> Result<Got, Errno> {
        let count = match sys::recv(self.fd, buffer)? {
            None => {
                self.readable = false;
                return Ok(Got::Nothing);
            }
            Some(0) => return Ok(Got::End),
            Some(count) => count,
        };
        if count < buffer.len() && !self.read_until_empty {
            self.readable = false;
        }
        Ok(Got::Bytes(count))
    }

    /// Writes, and keeps what the kernel did not accept; gives whether it accepted everything. Only while nothing is
    /// unsent.
    pub fn send(&mut self, data: &[u8]) -> Result<bool, Errno> {
        let count = sys::send(self.fd, data)?;
        if count < data.len() {
            self.unsent.extend_from_slice(&data[count..]);
            self.sent = 0;
        }
        Ok(self.unsent.is_empty())
    }

    /// Writes what is unsent; gives whether nothing is left.
    pub fn flush(&mut self) -> Result<bool, Errno> {
        while self.sent < self.unsent.len() {
            match sys::send(self.fd, &self.unsent[self.sent..])? {
                0 => return Ok(false),
                count => self.sent += count,
            }
        }
        self.unsent = Vec::new();
        self.sent = 0;
        Ok(true)
    }

    /// What the kernel has not accepted.
    pub fn unsent(&self) -> &[u8] {
        &self.unsent[self.sent..]
    }
}
