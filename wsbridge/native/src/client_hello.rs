//! What the first bytes of a client say before a TLS connection is made for them.

/// What is known of a ClientHello so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Hello {
    /// It has not come whole; wait for more.
    Incomplete,
    /// It is none, or cannot be read: TLS says so.
    Unreadable,
    Whole(ClientHello),
}

/// What a client says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The name that it asks for (SNI), as it came; empty for none.
    pub name: Vec<u8>,
    /// Whether it offers application protocols (ALPN), the one asked about not among them.
    pub other_protocols: bool,
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: usize = 0;
const ALPN: usize = 16;
const RECORD_HEADER: usize = 5;
/// A ClientHello in more bytes than this is not waited for: TLS judges it.
const MAX_BYTES: usize = 20_000;

/// Reads lengths and what they announce; every read is checked against what is there.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(
            self.take(bytes)?
                .iter()
                .fold(0, |sum, &byte| sum << 8 | usize::from(byte)),
        )
    }

    /// What a length of so many bytes announces.
    fn vector(&mut self, bytes: usize) -> Option<Reader<'a>> {
        let length = self.number(bytes)?;
        self.take(length).map(Reader)
    }
}

/// Looks at the first bytes of a client; `protocol` is the one whose absence is noted.
pub fn look(data: &[u8], protocol: &[u8]) -> Hello {
    match message(data) {
        Ok(Some(hello)) => read(&hello, protocol).map_or(Hello::Unreadable, Hello::Whole),
        Ok(None) if data.len() < MAX_BYTES => Hello::Incomplete,
        _ => Hello::Unreadable,
    }
}

/// The body of the ClientHello, which may come in several records; `Err` if it is none.
fn message(data: &[u8]) -> Result<Option<Vec<u8>>, ()> {
    let mut records = Reader(data);
    let mut body = Vec::new();
    while !records.0.is_empty() {
        if records.0[0] != HANDSHAKE {
            return Err(());
        }
        if records.0.len() < RECORD_HEADER {
            return Ok(None);
        }
        let _ = records.take(3);
        let length = records.number(2).unwrap_or(0);
        if length == 0 {
            return Err(());
        }
        let (part, whole) = match records.take(length) {
            Some(part) => (part, true),
            None => (std::mem::take(&mut records.0), false),
        };
        body.extend_from_slice(part);
        if body.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
            return Err(());
        }
        if let Some(mut hello) = body.get(1..).map(Reader).and_then(|mut it| it.vector(3)) {
            return Ok(Some(std::mem::take(&mut hello.0).to_vec()));
        }
        if !whole {
            break;
        }
    }
    Ok(None)
}

fn read(hello: &[u8], protocol: &[u8]) -> Option<ClientHello> {
    let mut found = ClientHello::default();
    let mut hello = Reader(hello);
    hello.take(2 + 32)?; // version, random
    hello.vector(1)?; // session
    hello.vector(2)?; // cipher suites
    hello.vector(1)?; // compression
    if hello.0.is_empty() {
        return Some(found);
    }
    let mut extensions = hello.vector(2)?;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let extension = extensions.vector(2)?;
        match kind {
            SERVER_NAME => found.name = host_name(extension)?,
            ALPN => found.other_protocols = !offers(extension, protocol)?,
            _ => {}
        }
    }
    Some(found)
}

/// The first name of a list, which has to be of a host; empty for none.
fn host_name(mut extension: Reader<'_>) -> Option<Vec<u8>> {
    let mut names = extension.vector(2)?;
    if names.0.is_empty() || names.number(1)? != 0 {
        return Some(Vec::new());
    }
    Some(names.vector(2)?.0.to_vec())
}

fn offers(mut extension: Reader<'_>, protocol: &[u8]) -> Option<bool> {
    let mut names = extension.vector(2)?;
    while !names.0.is_empty() {
        if names.vector(1)?.0 == protocol {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(alpn: Option<&[&[u8]]>) -> Vec<u8> {
        let mut extensions = vec![0, 23, 0, 0]; // extended_master_secret
        extensions.extend(*b"\0\0\0\x09\0\x07\0\0\x04host");
        if let Some(names) = alpn {
            let list: Vec<u8> = names
                .iter()
                .flat_map(|name| [&[name.len() as u8], *name].concat())
                .collect();
            extensions.extend([0, 16, 0, list.len() as u8 + 2, 0, list.len() as u8]);
            extensions.extend(list);
        }
        let mut body = vec![3; 34];
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0, 0, extensions.len() as u8]);
        body.extend(extensions);
        let mut message = vec![1, 0, 0, body.len() as u8];
        message.extend(body);
        message
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message
            .chunks(size)
            .flat_map(|part| [&[22, 3, 1, 0, part.len() as u8], part].concat())
            .collect()
    }

    #[test]
    fn names_and_protocols_are_found_however_the_hello_is_cut() {
        for (alpn, expected) in [
            (None, false),
            (Some([&b"h2"[..], b"http/1.1"].as_slice()), false),
            (Some([&b"mqtt"[..]].as_slice()), true),
        ] {
            for size in [1, 7, 200] {
                let expected = Hello::Whole(ClientHello {
                    name: b"host".to_vec(),
                    other_protocols: expected,
                });
                assert_eq!(look(&records(&hello(alpn), size), b"http/1.1"), expected);
            }
        }
    }

    #[test]
    fn a_part_of_a_hello_is_waited_for() {
        let whole = records(&hello(Some(&[b"mqtt"])), 30);
        for length in 0..whole.len() {
            assert_eq!(look(&whole[..length], b"http/1.1"), Hello::Incomplete);
        }
    }

    #[test]
    fn what_is_no_hello_is_left_to_tls() {
        assert_eq!(look(b"GET / HTTP/1.1\r\n", b"http/1.1"), Hello::Unreadable);
        assert_eq!(
            look(b"\x16\x03\x01\x00\x05rubbish", b"x"),
            Hello::Unreadable
        );
        assert_eq!(look(&[22, 3, 1, 0, 0], b"x"), Hello::Unreadable);
        let mut endless = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
        endless.resize(MAX_BYTES, 0);
        assert_eq!(look(&endless, b"x"), Hello::Unreadable);
    }

    #[test]
    fn random_bytes_are_read_within_their_bounds() {
        let whole = records(&hello(Some(&[b"mqtt", b"h2"])), 40);
        for at in 0..whole.len() {
            for value in [0, 1, 2, 127, 255] {
                let mut changed = whole.clone();
                changed[at] = value;
                look(&changed, b"h2");
                look(&changed[..at], b"h2");
            }
        }
    }
}
