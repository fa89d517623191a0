//! Payload to the socket, in full records, and close_notify.

use super::states::{encrypt, Role, Sink};
use super::{Scratch, TlsConn, WRITE_BYTES};
use crate::sys::{self, Errno};

impl TlsConn {
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
}
