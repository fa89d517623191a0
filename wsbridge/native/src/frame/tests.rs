use super::*;
use proptest::prelude::*;

/// What decoding a stream gives, whatever the reads.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    messages: Vec<(u8, Vec<u8>)>,
    open: Vec<u8>,
    pings: Vec<Vec<u8>>,
    close: Option<Vec<u8>>,
    is_unusual: bool,
    controls: u64,
}

impl Outcome {
    fn add(&mut self, opcode: &mut u8, first_byte: u8, payload: &[u8]) {
        if first_byte & 0x0f != 0 {
            *opcode = first_byte & 0x0f;
        }
        self.open.extend_from_slice(payload);
        if first_byte & FIN != 0 {
            self.messages
                .push((*opcode, std::mem::take(&mut self.open)));
        }
    }
}

/// Decodes a stream that is read in pieces.
fn decode(role: Role, text: TextMessages, stream: &[u8], cuts: &[usize]) -> Outcome {
    let mut decoder = Decoder::new(role, text);
    let mut outcome = Outcome::default();
    let mut found = Found {
        keep_pieces: true,
        ..Found::default()
    };
    let (mut at, mut opcode) = (0, 0);
    let mut sizes = cuts.iter().cycle();
    while at < stream.len() {
        let size = (*sizes.next().unwrap_or(&1)).clamp(1, stream.len() - at);
        let mut data = stream[at..at + size].to_vec();
        let (used, stop) = decoder.decode(&mut data, &mut found);
        assert!(found.payload_bytes() <= used && used <= size);
        let payload = found.payload_bytes();
        let data: Vec<u8> = found
            .ranges
            .drain(..)
            .flat_map(|range| data[range].to_vec())
            .collect();
        let mut begin = 0;
        for piece in found.pieces.drain(..) {
            outcome.add(
                &mut opcode,
                piece.first_byte,
                &data[begin..begin + piece.size],
            );
            begin += piece.size;
        }
        assert_eq!(begin, payload);
        outcome.pings.append(&mut found.pings);
        at += used;
        match stop {
            Stop::Close => {
                outcome.close = Some(decoder.control_body().to_vec());
                break;
            }
            Stop::Unusual => {
                // where text is refused depends on what was read of it before
                outcome.is_unusual = true;
                outcome.open.clear();
                break;
            }
            Stop::Empty => assert_eq!(used, size),
            Stop::Pause => assert!(decoder.control_frame_count >= MAX_CONTROLS),
        }
    }
    outcome.controls = decoder.control_frame_count;
    outcome
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        Just(FIN | BINARY),
        Just(FIN | TEXT),
        Just(BINARY),
        Just(TEXT),
        Just(FIN),
        Just(0),
        Just(FIN | PING),
        Just(FIN | PONG),
        Just(FIN | CLOSE),
        any::<u8>(),
    ];
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        "\\PC{0,100}".prop_map(String::into_bytes),
        (any::<u8>(), 3000_usize..9000).prop_map(|(byte, size)| vec![byte; size]),
    ];
    proptest::collection::vec((first, payload, any::<[u8; 4]>()), 0..12).prop_map(|frames| {
        let mut stream = Vec::new();
        for (first, payload, key) in frames {
            push_frame(&mut stream, first, &payload, Some(key));
        }
        stream
    })
}

proptest! {
    #[test]
    fn one_read_is_as_good_as_many(stream in frames(), cuts in proptest::collection::vec(1_usize..300, 1..6)) {
        let whole = decode(Role::Server, TextMessages::Accept, &stream, &[usize::MAX]);
        let bytes = decode(Role::Server, TextMessages::Accept, &stream, &[1]);
        let some = decode(Role::Server, TextMessages::Accept, &stream, &cuts);
        prop_assert_eq!(&whole, &bytes);
        prop_assert_eq!(&whole, &some);
    }

    #[test]
    fn any_bytes_are_decoded_or_left(stream in proptest::collection::vec(any::<u8>(), 0..2000), cut in 1_usize..50) {
        for role in [Role::Server, Role::Client] {
            for text in [TextMessages::Accept, TextMessages::Reject, TextMessages::Bytes] {
                let whole = decode(role, text, &stream, &[usize::MAX]);
                prop_assert_eq!(whole, decode(role, text, &stream, &[cut]));
            }
        }
    }

    #[test]
    fn text_is_checked_as_the_standard_library_does(
        payload in proptest::collection::vec(any::<u8>(), 0..40), cuts in proptest::collection::vec(1_usize..9, 1..4)
    ) {
        let mut stream = Vec::new();
        push_frame(&mut stream, FIN | TEXT, &payload, Some([1, 2, 3, 4]));
        let outcome = decode(Role::Server, TextMessages::Accept, &stream, &cuts);
        prop_assert_eq!(outcome.is_unusual, std::str::from_utf8(&payload).is_err());
    }

    #[test]
    fn a_message_comes_back(payload in proptest::collection::vec(any::<u8>(), 0..70_000), key in any::<[u8; 4]>()) {
        let mut stream = Vec::new();
        push_frame(&mut stream, FIN | BINARY, &payload, Some(key));
        let outcome = decode(Role::Server, TextMessages::Accept, &stream, &[usize::MAX]);
        prop_assert_eq!(outcome.messages, vec![(BINARY, payload)]);
    }

    #[test]
    fn masking_is_its_own_inverse(data in proptest::collection::vec(any::<u8>(), 0..100), key in any::<[u8; 4]>()) {
        let mut masked = data.clone();
        apply_mask(&mut masked, key);
        for (index, (byte, plain)) in masked.iter().zip(&data).enumerate() {
            prop_assert_eq!(*byte, plain ^ key[index % 4]);
        }
    }
}

#[test]
fn an_ending_inside_a_character_is_left() {
    let mut stream = Vec::new();
    push_frame(&mut stream, TEXT, b"caf\xc3", Some([0; 4]));
    push_frame(&mut stream, FIN, b"", Some([0; 4]));
    let outcome = decode(Role::Server, TextMessages::Accept, &stream, &[usize::MAX]);
    assert!(outcome.is_unusual);
    assert_eq!(outcome.controls, 0);
}

#[test]
fn close_codes_are_those_that_a_peer_may_send() {
    assert_eq!(close_code(b""), Some(None));
    assert_eq!(close_code(b"\x03"), None);
    assert_eq!(close_code(b"\x03\xe8bye"), Some(Some(1000)));
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        assert_eq!(close_code(&code.to_be_bytes()), None);
    }
    assert_eq!(close_code(b"\x03\xe8\xff"), None);
}
