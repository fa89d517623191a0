//! Whether the first bytes of a raw client may begin an HTTP request: then Python's guard holds them until it knows.

/// As in wsbridge/protocol/http_guard.py.
const METHODS: [&[u8]; 9] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
];

/// Whether these bytes and a method are the same as far as both go.
pub fn may_be_http(first: &[u8]) -> bool {
    METHODS
        .iter()
        .any(|method| first.iter().zip(*method).all(|(byte, other)| byte == other))
}
