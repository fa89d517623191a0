//! The bytes of one connection, plain or TLS, on a descriptor that is not blocking.

use crate::sys::{self, Errno, OwnFd};
use crate::tls::{Scratch, TlsConn};
use std::ops::Range;
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
    /// Where the descriptor is the extension's own: it is closed with this.
    own: Option<OwnFd>,
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
            own: None,
            readable: true,
            read_until_empty,
            sent_bytes: 0,
            unsent: Vec::new(),
            unsent_from: 0,
        }
    }

    /// A socket that belongs to the extension.
    pub fn owned(own: OwnFd, read_until_empty: bool) -> Self {
        let mut plain = Plain::new(own.raw(), read_until_empty);
        plain.own = Some(own);
        plain
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

    /// Takes over what another could not write.
    pub fn keep_unsent(&mut self, unsent: &[u8]) {
        self.unsent = unsent.to_vec();
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

    /// Writes parts of a buffer as `send` does.
    pub fn send_parts(&mut self, buffer: &[u8], parts: &[Range<usize>]) -> Result<bool, Errno> {
        let mut count = sys::send_parts(self.fd, buffer, parts)?;
        self.sent_bytes += count as u64;
        self.unsent.clear();
        self.unsent_from = 0;
        for part in parts.iter().filter_map(|part| buffer.get(part.clone())) {
            let (_, rest) = part.split_at(count.min(part.len()));
            self.unsent.extend_from_slice(rest);
            count -= part.len() - rest.len();
        }
        Ok(self.unsent.is_empty())
    }

    /// What the kernel has not accepted.
    pub fn unsent(&self) -> &[u8] {
        &self.unsent[self.unsent_from..]
    }
}

/// A connection, plain or TLS.
pub enum Wire {
    Plain(Plain),
    Tls(Box<TlsConn>),
}

impl Wire {
    pub fn fd(&self) -> RawFd {
        match self {
            Wire::Plain(wire) => wire.fd,
            Wire::Tls(wire) => wire.fd,
        }
    }

    /// Makes the descriptor of a plain socket the extension's own.
    pub fn take_over(&mut self) {
        if let Wire::Plain(wire) = self {
            wire.own = Some(OwnFd::take_over(wire.fd));
        }
    }

    /// Gives the descriptor, if it was the extension's own, to somebody else, who closes it.
    pub fn release(&mut self) -> Option<RawFd> {
        match self {
            Wire::Plain(wire) => wire.own.take().map(OwnFd::release),
            Wire::Tls(_) => None,
        }
    }

    /// Closes the descriptor if it is the extension's own; gives whether it was.
    pub fn close_own(&mut self) -> bool {
        match self {
            Wire::Plain(wire) => wire.own.take().is_some(),
            Wire::Tls(_) => false,
        }
    }

    pub fn is_readable(&self) -> bool {
        match self {
            Wire::Plain(wire) => wire.readable,
            Wire::Tls(wire) => wire.readable,
        }
    }

    /// Whether it has input that no event will tell of.
    pub fn has_buffered(&self) -> bool {
        matches!(self, Wire::Tls(wire) if wire.has_buffered())
    }

    /// Notes that an event reported input.
    pub fn note_input(&mut self) {
        match self {
            Wire::Plain(wire) => wire.readable = true,
            Wire::Tls(wire) => wire.readable = true,
        }
    }

    /// Notes that reads are to go on until nothing is left.
    pub fn read_until_empty(&mut self) {
        self.note_input();
        match self {
            Wire::Plain(wire) => wire.read_until_empty = true,
            Wire::Tls(wire) => wire.read_until_empty = true,
        }
    }

    /// Bytes that the kernel has accepted, those of TLS included.
    pub fn sent_bytes(&self) -> u64 {
        match self {
            Wire::Plain(wire) => wire.sent_bytes,
            Wire::Tls(wire) => wire.sent_bytes,
        }
    }

    pub fn recv(&mut self, buffer: &mut [u8], scratch: &mut Scratch) -> Result<Got, Errno> {
        match self {
            Wire::Plain(wire) => wire.recv(buffer),
            Wire::Tls(wire) => wire.recv(buffer, scratch),
        }
    }

    /// Writes two buffers in order, and keeps what the kernel did not accept; gives whether it accepted everything.
    ///
    /// Only while nothing is unsent.
    pub fn send(
        &mut self,
        first: &[u8],
        second: &[u8],
        scratch: &mut Scratch,
    ) -> Result<bool, Errno> {
        match self {
            Wire::Plain(wire) => wire.send(first, second),
            Wire::Tls(wire) if second.is_empty() => wire.send(first, scratch),
            Wire::Tls(wire) => wire.send_parts([first, second].into_iter(), scratch),
        }
    }

    /// Writes parts of a buffer as `send` does.
    pub fn send_parts(
        &mut self,
        buffer: &[u8],
        parts: &[Range<usize>],
        scratch: &mut Scratch,
    ) -> Result<bool, Errno> {
        match self {
            Wire::Plain(wire) => wire.send_parts(buffer, parts),
            Wire::Tls(wire) => {
                let parts = parts.iter().filter_map(|part| buffer.get(part.clone()));
                wire.send_parts(parts, scratch)
            }
        }
    }

    /// Writes what is unsent; gives whether nothing is left.
    pub fn flush(&mut self) -> Result<bool, Errno> {
        match self {
            Wire::Plain(wire) => wire.flush(),
            Wire::Tls(wire) => wire.flush(),
        }
    }

    /// Sends FIN, under TLS after close_notify; false if not all of that was accepted.
    pub fn finish(&mut self, scratch: &mut Scratch) -> bool {
        if let Wire::Tls(wire) = self {
            if wire.close_notify(scratch) == Ok(false) {
                return false;
            }
        }
        sys::send_fin(self.fd());
        true
    }
}
