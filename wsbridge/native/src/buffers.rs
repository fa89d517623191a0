//! What a thread has for all its pairs: buffers, and masking keys.

use crate::frame::{self, Found};
use crate::sys;
use crate::tls::Scratch;

/// Payload bytes of the largest frame that is made of raw bytes, and of one read of frames.
pub const FRAME_BYTES: usize = 65536;
/// Room before the payload of a frame in a buffer.
const GAP: usize = frame::MAX_HEADER_BYTES + 2;
/// Frames of raw bytes of one read while reads are full.
pub const MAX_SLOTS: usize = sys::MAX_BUFFERS;

/// Buffers of a thread.
pub struct Buffers {
    pub input: Vec<u8>,
    pub output: Vec<u8>,
    pub found: Found,
    pub keys: MaskKeys,
    pub scratch: Scratch,
}

impl Buffers {
    pub fn new() -> Self {
        Buffers {
            input: vec![0; MAX_SLOTS * (GAP + FRAME_BYTES)],
            output: Vec::new(),
            found: Found::default(),
            keys: MaskKeys {
                pool: vec![0; 4096],
                used: 4096,
            },
            scratch: Scratch::new(),
        }
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new()
    }
}

/// Masking keys from the system's randomness (RFC 6455 section 10.3).
pub struct MaskKeys {
    pool: Vec<u8>,
    used: usize,
}

impl MaskKeys {
    /// An unpredictable key; `None` if the system has no randomness.
    pub fn draw(&mut self) -> Option<[u8; 4]> {
        if self.used + 4 > self.pool.len() {
            if !sys::random(&mut self.pool) {
                return None;
            }
            self.used = 0;
        }
        let mut key = [0; 4];
        key.copy_from_slice(&self.pool[self.used..self.used + 4]);
        self.used += 4;
        Some(key)
    }
}
