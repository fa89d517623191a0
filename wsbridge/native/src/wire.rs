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
    /// Bytes that the kernel has accepted.
    pub sent_bytes: u64,
    unsent: Vec<u8>,
    unsent_from: usize,
}

impl Plain {
    pub fn new(fd: RawFd, read_until_empty: bool) -> Self {
        Plain {
            fd,
            readable: true,
            read_until_empty,
            sent_bytes: 0,
            unsent: Vec::new(),
            unsent_from: 0,
        }
    }

    pub fn recv(&mut self, buffer: &mut [u8]) -> Result<Got, Errno> {
        let result = sys::recv(self.fd, buffer)?;
        Ok(self.note_read(result, buffer.len()))
    }

    /// Reads into slots; see `sys::recv_strided`.
    pub fn recv_strided(
        &mut self,
        buffer: &mut [u8],
        gap: usize,
        size: usize,
        slots: usize,
    ) -> Result<Got, Errno> {
        let result = sys::recv_strided(self.fd, buffer, gap, size, slots)?;
        Ok(self.note_read(result, size * slots))
    }

    fn note_read(&mut self, result: Option<usize>, asked: usize) -> Got {
        match result {
            None => {
                self.readable = false;
                Got::Nothing
            }
            Some(0) => Got::End,
            Some(count) => {
                if count < asked && !self.read_until_empty {
                    self.readable = false;
                }
                Got::Bytes(count)
            }
        }
    }

    /// Writes two buffers in order, and keeps what the kernel did not accept; gives whether it accepted everything.
    ///
    /// Only while nothing is unsent.
    pub fn send(&mut self, first: &[u8], second: &[u8]) -> Result<bool, Errno> {
        let count = sys::send(self.fd, first, second)?;
        self.sent_bytes += count as u64;
        if count < first.len() + second.len() {
            self.unsent.clear();
            self.unsent_from = 0;
            self.unsent
                .extend_from_slice(&first[count.min(first.len())..]);
            self.unsent
                .extend_from_slice(&second[count.saturating_sub(first.len())..]);
        }
        Ok(self.unsent.is_empty())
    }

    /// Writes what is unsent; gives whether nothing is left.
    pub fn flush(&mut self) -> Result<bool, Errno> {
        while self.unsent_from < self.unsent.len() {
            match sys::send(self.fd, &self.unsent[self.unsent_from..], &[])? {
                0 => return Ok(false),
                count => {
                    self.unsent_from += count;
                    self.sent_bytes += count as u64;
                }
            }
        }
        self.unsent = Vec::new();
        self.unsent_from = 0;
        Ok(true)
    }

    /// What the kernel has not accepted.
    pub fn unsent(&self) -> &[u8] {
        &self.unsent[self.unsent_from..]
    }
}
