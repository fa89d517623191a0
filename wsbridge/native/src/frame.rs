//! WebSocket frames (RFC 6455 section 5), decoded where they lie, and encoded: bytes in, bytes out.
//!
//! The state is that of `WebSocketFraming` in wsbridge/protocol/websocket.py, field by field, so that a stream can go on
//! there at any byte. What breaks the protocol is left to it: decoding stops before the frame, or the piece of text.

use std::ops::Range;

pub const FIN: u8 = 0x80;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// Largest body of a control frame.
pub const MAX_CONTROL_BYTES: usize = 125;
/// Control and empty frames after which decoding pauses.
pub const MAX_CONTROLS: u64 = 128;
/// Largest header: two bytes, eight of a length, four of a masking key.
pub const MAX_HEADER_BYTES: usize = 14;

/// Our role on a connection, which says who masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Server,
    Client,
}

/// What happens to text messages of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextMessages {
    Accept,
    Reject,
    Bytes,
}

/// Why decoding stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// Everything was decoded.
    Empty,
    /// So many control and empty frames were found that the caller is to act on them first.
    Pause,
    /// A close frame, whole and valid; its body is in `control_body`. Nothing behind it was decoded.
    Close,
    /// What follows is for the rules in Python: a violation, in most cases.
    Unusual,
}

/// A piece of a message: how many bytes, and the first byte of the frame that it is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub size: usize,
    pub first_byte: u8,
}

/// Payload from this size on stays where it lies; less is moved to what comes before it.
const MIN_RANGE_BYTES: usize = 4096;
/// Most places of payload; also those of one write.
pub const MAX_RANGES: usize = 16;

/// What decoding found; the caller empties it.
#[derive(Default)]
pub struct Found {
    /// Where payload lies, in order; one place where pieces are kept.
    pub ranges: Vec<Range<usize>>,
    /// The pieces, in order, where the other side is a WebSocket; `keep_pieces` asks for them.
    pub pieces: Vec<Piece>,
    pub keep_pieces: bool,
    /// The bodies of pings, in order.
    pub pings: Vec<Vec<u8>>,
}

impl Found {
    /// Notes where the next payload lies, or moves it to the end of what comes before it.
    fn add_range(&mut self, data: &mut [u8], range: Range<usize>) {
        let most = if self.keep_pieces { 1 } else { MAX_RANGES };
        let count = self.ranges.len();
        match self.ranges.last_mut() {
            Some(last) if range.len() < MIN_RANGE_BYTES || count >= most => {
                data.copy_within(range.clone(), last.end);
                last.end += range.len();
            }
            _ => self.ranges.push(range),
        }
    }

    /// Bytes of payload.
    pub fn payload_bytes(&self) -> usize {
        self.ranges.iter().map(Range::len).sum()
    }
}

/// The receiving half of a WebSocket.
#[derive(Clone, Debug)]
pub struct Decoder {
    pub role: Role,
    pub text_messages: TextMessages,
    pub control_frame_count: u64,
    pub partial_header: [u8; MAX_HEADER_BYTES],
    pub partial_header_size: usize,
    pub payload_left: u64,
    pub mask_key: [u8; 4],
    pub fin: bool,
    pub control_opcode: u8,
    pub control_body: [u8; MAX_CONTROL_BYTES],
    pub control_body_size: usize,
    pub message_opcode: u8,
    pub message_started: bool,
    pub utf8_tail: [u8; 3],
    pub utf8_tail_size: usize,
}

struct Header {
    first: u8,
    size: usize,
    length: u64,
    mask_key: [u8; 4],
}

impl Decoder {
    pub fn new(role: Role, text_messages: TextMessages) -> Self {
        Decoder {
            role,
            text_messages,
            control_frame_count: 0,
            partial_header: [0; MAX_HEADER_BYTES],
            partial_header_size: 0,
            payload_left: 0,
            mask_key: [0; 4],
            fin: false,
            control_opcode: 0,
            control_body: [0; MAX_CONTROL_BYTES],
            control_body_size: 0,
            message_opcode: 0,
            message_started: false,
            utf8_tail: [0; 3],
            utf8_tail_size: 0,
        }
    }

    /// Decodes what arrived, in place; gives how many bytes were decoded, and why no more.
    pub fn decode(&mut self, data: &mut [u8], found: &mut Found) -> (usize, Stop) {
        let mut at = 0;
        let pause = self.control_frame_count + MAX_CONTROLS;
        loop {
            if self.control_frame_count >= pause && self.control_opcode == 0 {
                return (at, Stop::Pause);
            }
            if self.payload_left > 0 {
                let left = usize::try_from(self.payload_left).unwrap_or(usize::MAX);
                let size = left.min(data.len() - at);
                if size == 0 {
                    return (at, Stop::Empty);
                }
                if self.control_opcode != 0 {
                    self.take_control_body(&mut data[at..at + size]);
                    at += size;
                } else {
                    if !self.take_payload(&mut data[at..at + size], found) {
                        return (at, Stop::Unusual);
                    }
                    found.add_range(data, at..at + size);
                    at += size;
                    continue;
                }
            } else {
                if at == data.len() {
                    return (at, Stop::Empty);
                }
                let held = self.partial_header_size;
                let header = match self.read_header(&data[at..]) {
                    HeaderResult::Whole(header) => header,
                    HeaderResult::Partial => return (data.len(), Stop::Empty),
                    HeaderResult::Unusual => return (at, Stop::Unusual),
                };
                if self.cuts_character(&header) {
                    return (at, Stop::Unusual);
                }
                at += header.size - held;
                self.begin_frame(&header, found);
            }
            if self.control_opcode != 0 && self.payload_left == 0 && self.finish_control(found) {
                return (at, Stop::Close);
            }
        }
    }

    /// Reads the header of a frame; a part of one is kept.
    fn read_header(&mut self, data: &[u8]) -> HeaderResult {
        let held = self.partial_header_size;
        let mut head = self.partial_header;
        let size = (MAX_HEADER_BYTES - held).min(data.len()) + held;
        head[held..size].copy_from_slice(&data[..size - held]);
        let masked = self.role == Role::Server;
        let key_size = if masked { 4 } else { 0 };
        let extended = match head[1] & 0x7f {
            _ if size < 2 => 0,
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let total = 2 + extended + key_size;
        if size >= 2 && self.is_unusual(head[0], head[1], masked) {
            return HeaderResult::Unusual;
        }
        if size < total {
            self.partial_header = head;
            self.partial_header_size = size;
            return HeaderResult::Partial;
        }
        let length = match extended {
            2 => u64::from(u16::from_be_bytes([head[2], head[3]])),
            8 => u64::from_be_bytes([
                head[2], head[3], head[4], head[5], head[6], head[7], head[8], head[9],
            ]),
            _ => u64::from(head[1] & 0x7f),
        };
        let shortest = match extended {
            2 => 126,
            8 => 65536,
            _ => 0,
        };
        if length < shortest || length >> 63 != 0 {
            return HeaderResult::Unusual;
        }
        let mut mask_key = [0; 4];
        if masked {
            mask_key.copy_from_slice(&head[total - 4..total]);
        }
        HeaderResult::Whole(Header {
            first: head[0],
            size: total,
            length,
            mask_key,
        })
    }

    /// Whether the first two bytes break a rule (RFC 6455 sections 5.1 to 5.5), or are for Python to judge.
    fn is_unusual(&self, first: u8, second: u8, masked: bool) -> bool {
        let opcode = first & 0x0f;
        if first & 0x70 != 0 || (second & 0x80 != 0) != masked {
            return true;
        }
        if opcode >= CLOSE {
            return opcode > PONG || first & FIN == 0 || second & 0x7f > MAX_CONTROL_BYTES as u8;
        }
        match opcode {
            0 => self.message_opcode == 0,
            TEXT => self.text_messages == TextMessages::Reject || self.message_opcode != 0,
            BINARY => self.message_opcode != 0,
            _ => true,
        }
    }

    /// Whether an empty frame ends a text message inside a character.
    fn cuts_character(&self, header: &Header) -> bool {
        header.length == 0
            && header.first == FIN
            && self.message_opcode == TEXT
            && self.text_messages != TextMessages::Bytes
            && self.utf8_tail_size > 0
    }

    fn begin_frame(&mut self, header: &Header, found: &mut Found) {
        self.partial_header_size = 0;
        self.mask_key = header.mask_key;
        self.payload_left = header.length;
        let opcode = header.first & 0x0f;
        if opcode >= CLOSE {
            self.control_opcode = opcode;
            self.control_body_size = 0;
            self.control_frame_count += 1;
            return;
        }
        self.fin = header.first & FIN != 0;
        if opcode != 0 {
            self.message_opcode = opcode;
            self.message_started = false;
            self.utf8_tail_size = 0;
        }
        if header.length == 0 {
            self.control_frame_count += 1;
            self.end_piece(0, found);
        }
    }

    /// Unmasks a piece of payload; false, and nothing has changed, if it is text that is not UTF-8.
    fn take_payload(&mut self, piece: &mut [u8], found: &mut Found) -> bool {
        let masked = self.role == Role::Server;
        if masked {
            apply_mask(piece, self.mask_key);
        }
        let ends = self.fin && self.payload_left == piece.len() as u64;
        if self.message_opcode == TEXT
            && self.text_messages != TextMessages::Bytes
            && !self.check_text(piece, ends)
        {
            if masked {
                apply_mask(piece, self.mask_key);
            }
            return false;
        }
        self.payload_left -= piece.len() as u64;
        self.mask_key.rotate_left(piece.len() & 3);
        self.end_piece(piece.len(), found);
        true
    }

    /// Notes a piece of the open message, and its end where it is the last.
    fn end_piece(&mut self, size: usize, found: &mut Found) {
        let ends = self.fin && self.payload_left == 0;
        if size > 0 || ends {
            if found.keep_pieces {
                let opcode = if self.message_started {
                    0
                } else {
                    self.message_opcode
                };
                let first_byte = opcode | if ends { FIN } else { 0 };
                found.pieces.push(Piece { size, first_byte });
            }
            self.message_started = true;
        }
        if ends {
            self.message_opcode = 0;
            self.message_started = false;
        }
    }

    /// Checks the next bytes of a text message; false, and nothing has changed, if it is not UTF-8.
    fn check_text(&mut self, piece: &[u8], ends: bool) -> bool {
        let mut rest = piece;
        let mut tail = self.utf8_tail;
        let mut size = self.utf8_tail_size;
        if size > 0 {
            // complete the character that the last piece began
            let mut character = [0; 4];
            character[..size].copy_from_slice(&tail[..size]);
            loop {
                match std::str::from_utf8(&character[..size]) {
                    Ok(_) => {
                        size = 0;
                        break;
                    }
                    Err(error) if error.error_len().is_some() => return false,
                    Err(_) => {}
                }
                let Some((&next, more)) = rest.split_first() else {
                    break;
                };
                if size == character.len() {
                    return false;
                }
                character[size] = next;
                size += 1;
                rest = more;
            }
            tail.copy_from_slice(&character[..3]);
        }
        if size == 0 {
            if let Err(error) = std::str::from_utf8(rest) {
                let unfinished = &rest[error.valid_up_to()..];
                if error.error_len().is_some() || unfinished.len() > tail.len() {
                    return false;
                }
                size = unfinished.len();
                tail[..size].copy_from_slice(unfinished);
            }
        }
        if ends && size > 0 {
            return false;
        }
        self.utf8_tail = tail;
        self.utf8_tail_size = size;
        true
    }

    fn take_control_body(&mut self, piece: &mut [u8]) {
        if self.role == Role::Server {
            apply_mask(piece, self.mask_key);
            self.mask_key.rotate_left(piece.len() & 3);
        }
        let end = self.control_body_size + piece.len();
        self.control_body[self.control_body_size..end].copy_from_slice(piece);
        self.control_body_size = end;
        self.payload_left -= piece.len() as u64;
    }

    /// Notes a control frame that is whole; true for a close frame.
    fn finish_control(&mut self, found: &mut Found) -> bool {
        let opcode = self.control_opcode;
        match opcode {
            PING => found.pings.push(self.control_body().to_vec()),
            PONG => {}
            _ => return true,
        }
        self.control_opcode = 0;
        self.control_body_size = 0;
        false
    }

    /// The body of the control frame that is being read.
    pub fn control_body(&self) -> &[u8] {
        &self.control_body[..self.control_body_size]
    }
}

enum HeaderResult {
    Whole(Header),
    Partial,
    Unusual,
}

/// XORs with the four bytes of the key, over and over.
pub fn apply_mask(data: &mut [u8], key: [u8; 4]) {
    let word = u64::from_ne_bytes([
        key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3],
    ]);
    let mut words = data.chunks_exact_mut(8);
    for chunk in &mut words {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ word).to_ne_bytes());
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Writes a header so that it ends where the payload begins; gives where it begins.
///
/// `room` is what lies before the payload, at least MAX_HEADER_BYTES long.
pub fn write_header_before(
    room: &mut [u8],
    first_byte: u8,
    size: usize,
    mask_key: Option<[u8; 4]>,
) -> usize {
    let mut at = room.len();
    let mut mask_bit = 0;
    if let Some(key) = mask_key {
        at -= 4;
        room[at..at + 4].copy_from_slice(&key);
        mask_bit = 0x80;
    }
    let short = if size < 126 {
        size as u8
    } else if size < 65536 {
        at -= 2;
        room[at..at + 2].copy_from_slice(&(size as u16).to_be_bytes());
        126
    } else {
        at -= 8;
        room[at..at + 8].copy_from_slice(&(size as u64).to_be_bytes());
        127
    };
    at -= 2;
    room[at] = first_byte;
    room[at + 1] = mask_bit | short;
    at
}

/// Appends a frame.
pub fn push_frame(out: &mut Vec<u8>, first_byte: u8, payload: &[u8], mask_key: Option<[u8; 4]>) {
    let mut room = [0; MAX_HEADER_BYTES];
    let at = write_header_before(&mut room, first_byte, payload.len(), mask_key);
    out.extend_from_slice(&room[at..]);
    let begin = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = mask_key {
        apply_mask(&mut out[begin..], key);
    }
}

/// The code of a close frame that is valid and needs no rule: none, or one that a peer may send, with a text in UTF-8.
pub fn close_code(body: &[u8]) -> Option<Option<u16>> {
    match body {
        [] => Some(None),
        [_] => None,
        [high, low, text @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            let valid = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
            (valid && std::str::from_utf8(text).is_ok()).then_some(Some(code))
        }
    }
}

#[cfg(test)]
mod tests;
