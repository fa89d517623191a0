use super::reading::MAX_RECORDS_PER_READ;
use super::*;
use crate::tls_config::{client_config, server_configs, KeyPair, ServerOptions};
use crate::wire::Got;
use rustls::pki_types::PrivateKeyDer;
use rustls::unbuffered::ConnectionState;
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

struct End {
    tls: TlsConn,
    socket: TcpStream,
    scratch: Scratch,
}

fn configs() -> &'static (Arc<ServerConfigs>, Arc<ClientConfig>) {
    static CONFIGS: OnceLock<(Arc<ServerConfigs>, Arc<ClientConfig>)> = OnceLock::new();
    CONFIGS.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let pair = KeyPair {
            chain: vec![made.cert.der().to_vec()],
            key: made.signing_key.serialize_der(),
        };
        let server = server_configs(vec![(pair, Vec::new())], &ServerOptions::default()).unwrap();
        let client = client_config(None, None, vec![b"http/1.1".to_vec()]).unwrap();
        (Arc::new(server), Arc::new(client))
    })
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    theirs.set_nodelay(true).unwrap();
    ours.set_nodelay(true).unwrap();
    for socket in [&ours, &theirs] {
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
    }
    (ours, theirs)
}

fn server_end(socket: TcpStream) -> End {
    End {
        tls: TlsConn::server(socket.as_raw_fd(), configs().0.clone()),
        socket,
        scratch: Scratch::new(),
    }
}

fn client_end(socket: TcpStream) -> End {
    let name = ServerName::try_from("localhost").unwrap();
    let tls = TlsConn::client(socket.as_raw_fd(), configs().1.clone(), name).unwrap();
    End {
        tls,
        socket,
        scratch: Scratch::new(),
    }
}

/// A server and a client after the handshake.
fn connected() -> (End, End) {
    let (ours, theirs) = sockets();
    shake_hands(server_end(ours), client_end(theirs))
}

fn shake_hands(mut server: End, mut client: End) -> (End, End) {
    for _ in 0..10 {
        let _ = client.wait() || server.wait();
        let done = client.tls.handshake(&mut client.scratch).unwrap();
        if server.tls.handshake(&mut server.scratch).unwrap() && done {
            return (server, client);
        }
    }
    panic!("no handshake");
}

impl End {
    fn send(&mut self, data: &[u8]) -> bool {
        self.tls.send(data, &mut self.scratch).unwrap()
    }

    fn recv(&mut self, size: usize) -> Result<(Vec<u8>, Got), Errno> {
        let mut out = vec![0; size];
        let got = self.tls.recv(&mut out, &mut self.scratch)?;
        out.truncate(if let Got::Bytes(count) = got {
            count
        } else {
            0
        });
        Ok((out, got))
    }

    /// Everything up to the end, or until nothing is left.
    fn read_all(&mut self, size: usize) -> (Vec<u8>, Result<Got, Errno>) {
        let mut all = Vec::new();
        self.tls.readable = true;
        loop {
            match self.recv(size) {
                Ok((data, Got::Bytes(_))) => all.extend(data),
                Ok((_, Got::Nothing)) if self.tls.readable || self.wait() => {
                    self.tls.readable = true
                }
                Ok((_, got)) => return (all, Ok(got)),
                Err(error) => return (all, Err(error)),
            }
        }
    }

    /// What comes next.
    fn some(&mut self) -> Vec<u8> {
        for _ in 0..1000 {
            self.tls.readable = true;
            let (data, _) = self.recv(65536).unwrap();
            if !data.is_empty() {
                return data;
            }
            self.wait();
        }
        Vec::new()
    }

    /// Whether the socket has something within a moment.
    fn wait(&self) -> bool {
        self.socket.set_nonblocking(false).unwrap();
        let arrived = self.socket.peek(&mut [0]).is_ok();
        self.socket.set_nonblocking(true).unwrap();
        arrived
    }

    fn update_keys(&mut self) {
        let Role::Client(connection) = &mut self.tls.role else {
            panic!("no client");
        };
        let status = connection.process_tls_records(&mut []);
        let Ok(ConnectionState::WriteTraffic(traffic)) = status.state else {
            panic!("cannot write");
        };
        traffic.refresh_traffic_keys().unwrap();
        let mut nowhere = Sink {
            out: &mut [],
            len: 0,
            held: &mut Vec::new(),
        };
        self.tls.step(&mut [], 0, &mut nowhere).unwrap();
        self.tls.flush().unwrap();
    }
}

/// Bytes that look random and are the same in each run.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

#[test]
fn the_handshake_tells_what_was_agreed() {
    let (server, client) = connected();
    assert_eq!(
        (server.tls.version(), client.tls.version()),
        ("TLSv1.3", "TLSv1.3")
    );
    assert_eq!(server.tls.cipher(), "TLS_AES_256_GCM_SHA384");
    assert_eq!(server.tls.alpn(), Some(HTTP_1_1));
    assert_eq!(&*server.tls.server_name, "localhost");
    assert_eq!(client.tls.peer_certificates().len(), 1);
    assert!(server.tls.peer_certificates().is_empty());
}

#[test]
fn suites_of_tls_1_2_are_named_as_openssl_does() {
    for (name, expected) in [
        (
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "ECDHE-RSA-AES128-GCM-SHA256",
        ),
        (
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
        ),
        (
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            "ECDHE-RSA-CHACHA20-POLY1305",
        ),
    ] {
        assert_eq!(openssl_suite(name), expected);
    }
}

#[test]
fn bytes_go_both_ways_under_back_pressure() {
    let (mut server, mut client) = connected();
    let (up, down) = (noise(1, 12_000_000), noise(2, 11_000_000));
    assert!(!client.send(&up));
    assert!(!server.send(&down));
    assert!(client.tls.unsent_bytes() > 0);
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    for _ in 0..10_000 {
        client.tls.flush().unwrap();
        server.tls.flush().unwrap();
        got_up.extend(server.read_all(65536).0);
        got_down.extend(client.read_all(65536).0);
        if got_up.len() == up.len() && got_down.len() == down.len() {
            break;
        }
    }
    assert!(got_up == up && got_down == down);
    assert_eq!(client.tls.unsent_bytes(), 0);
    assert!(client.tls.sent_bytes > up.len() as u64);
}

#[test]
fn parts_fill_the_records_together_and_small_reads_lose_nothing() {
    let (mut server, mut client) = connected();
    let whole = noise(3, 100_000);
    let cuts = [0, 10, 10, 65_546, 65_556, 100_000];
    let parts = cuts.windows(2).map(|cut| &whole[cut[0]..cut[1]]);
    client.tls.send_parts(parts, &mut client.scratch).unwrap();
    assert!(server.read_all(777).0 == whole);
    assert!(server.tls.input.is_empty() && server.tls.held.is_empty());
}

#[test]
fn tiny_records_do_not_fill_a_read() {
    let (mut server, mut client) = connected();
    let whole = noise(4, 1000);
    for byte in whole.chunks(1) {
        assert!(client.send(byte));
    }
    while server.socket.peek(&mut [0; 30_000]).unwrap_or(0) < 23_000 {}
    let (first, _) = server.recv(65536).unwrap();
    assert_eq!(first.len(), MAX_RECORDS_PER_READ);
    assert!(server.tls.readable && server.tls.has_buffered());
    let (rest, _) = server.read_all(65536);
    assert!([first, rest].concat() == whole);
    assert!(!server.tls.has_buffered());
}

#[test]
fn close_notify_is_an_orderly_end_and_the_other_direction_stays() {
    let (mut server, mut client) = connected();
    client.send(b"last words");
    assert!(client.tls.close_notify(&mut client.scratch).unwrap());
    let (data, end) = server.read_all(65536);
    assert_eq!((&data[..], end), (&b"last words"[..], Ok(Got::End)));
    assert!(server.tls.has_ended() && !server.tls.readable && !server.tls.has_buffered());
    assert!(server.send(b"the answer"));
    assert!(server.tls.close_notify(&mut server.scratch).unwrap());
    let (data, end) = client.read_all(65536);
    assert_eq!((&data[..], end), (&b"the answer"[..], Ok(Got::End)));
    assert_eq!(server.recv(10).unwrap().1, Got::End);
}

#[test]
fn fin_without_close_notify_is_truncation() {
    let (mut server, mut client) = connected();
    client.send(b"last words");
    client.socket.shutdown(Shutdown::Write).unwrap();
    let (data, end) = server.read_all(65536);
    assert_eq!(
        (&data[..], end),
        (&b"last words"[..], Err(libc::ECONNRESET))
    );
    assert_eq!(
        server.tls.fault.as_ref().unwrap().kind,
        FaultKind::Truncated
    );
    assert_eq!(server.recv(10).unwrap_err(), libc::ECONNRESET);
    assert!(!server.tls.readable);
}

/// A server that may encrypt 16 records with one key.
fn with_limit() -> ServerConfigs {
    static SUITE: LazyLock<Tls13CipherSuite> = LazyLock::new(|| {
        let SupportedCipherSuite::Tls13(suite) =
            rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256
        else {
            panic!("no suite of TLS 1.3");
        };
        Tls13CipherSuite {
            common: CipherSuiteCommon {
                confidentiality_limit: 16,
                ..suite.common
            },
            ..*suite
        }
    });
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites = vec![SupportedCipherSuite::Tls13(&SUITE)];
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key);
    let config = Arc::new(config.unwrap());
    ServerConfigs {
        usual: config.clone(),
        without_alpn: config,
    }
}

#[test]
fn keys_that_are_used_up_are_changed() {
    let (ours, theirs) = sockets();
    let mut server = server_end(ours);
    server.tls = TlsConn::server(server.socket.as_raw_fd(), Arc::new(with_limit()));
    let (mut server, mut client) = shake_hands(server, client_end(theirs));
    for number in 0..100_u8 {
        let sent = noise(number.into(), 5 * RECORD_BYTES);
        assert!(server.send(&sent));
        let mut received = Vec::new();
        while received.len() < sent.len() {
            received.extend(client.some());
        }
        assert!(received == sent);
        assert!(client.send(&[number]));
        assert_eq!(server.some(), [number]);
    }
}

#[test]
fn key_updates_in_a_row_are_a_flood() {
    let (mut server, mut client) = connected();
    for _ in 0..40 {
        client.update_keys();
    }
    let (_, end) = server.read_all(65536);
    assert_eq!(end, Err(libc::EPROTO));
    assert_eq!(server.tls.fault.as_ref().unwrap().kind, FaultKind::Flood);
}

#[test]
fn key_updates_between_payload_are_none() {
    let (mut server, mut client) = connected();
    for _ in 0..100 {
        for _ in 0..20 {
            client.update_keys();
        }
        client.send(b"payload");
        assert_eq!(server.some(), b"payload");
        server.send(b"answer");
        assert_eq!(client.some(), b"answer");
    }
    client.update_keys();
    assert!(client.tls.close_notify(&mut client.scratch).unwrap());
    assert_eq!(server.read_all(10).1, Ok(Got::End));
}

#[test]
fn what_is_not_tls_has_a_name() {
    for (sent, reason) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "HTTP_REQUEST"),
        (b"CONNECT a:1 HTTP/1.1", "HTTPS_PROXY_REQUEST"),
        (b"SSH-2.0-x\r\n", "WRONG_VERSION_NUMBER"),
    ] {
        let (ours, mut theirs) = sockets();
        let mut server = server_end(ours);
        theirs.write_all(sent).unwrap();
        assert_eq!(server.tls.handshake(&mut server.scratch), Err(libc::EPROTO));
        assert_eq!(server.tls.fault.as_ref().unwrap().reason, reason);
    }
}

#[test]
fn rubbish_gets_an_alert() {
    let (ours, mut theirs) = sockets();
    let mut server = server_end(ours);
    theirs.write_all(b"\x16\x03\x01\x00\x05rubbish").unwrap();
    assert_eq!(server.tls.handshake(&mut server.scratch), Err(libc::EPROTO));
    let mut answer = [0; 100];
    assert!(theirs.read(&mut answer).unwrap() > 0);
    assert_eq!(answer[0], 21);
}

#[test]
fn broken_records_end_it_after_what_came_before() {
    let (mut server, mut client) = connected();
    client.send(b"good");
    client
        .socket
        .write_all(&[&b"\x17\x03\x03\x00\x20"[..], &[0; 32]].concat())
        .unwrap();
    let (data, end) = server.read_all(65536);
    assert_eq!((&data[..], end), (&b"good"[..], Err(libc::EPROTO)));
    assert!(server.tls.fault.is_some());
}

/// The flights of a handshake, and records of payload behind it.
fn conversation() -> [Vec<u8>; 2] {
    let ((ours, mut to_server), (theirs, mut to_client)) = (sockets(), sockets());
    let (mut server, mut client) = (server_end(ours), client_end(theirs));
    let mut said = [Vec::new(), Vec::new()];
    for turn in 0..4 {
        if turn < 3 {
            let _ = client.tls.handshake(&mut client.scratch);
            let _ = server.tls.handshake(&mut server.scratch);
        } else {
            client.send(&noise(5, 500));
            server.send(&noise(6, 500));
        }
        let mut buffer = [0; 65536];
        for (from, to, all) in [(0, 1, 0), (1, 0, 1)] {
            let pair = [&mut to_client, &mut to_server];
            let [first, second] = pair;
            let (reader, writer) = if (from, to) == (0, 1) {
                (first, second)
            } else {
                (second, first)
            };
            reader.set_nonblocking(false).unwrap();
            if let Ok(count) = reader.read(&mut buffer) {
                writer.write_all(&buffer[..count]).unwrap();
                said[all].extend_from_slice(&buffer[..count]);
            }
            if all == 0 {
                let _ = server.tls.handshake(&mut server.scratch);
            }
        }
    }
    said
}

#[test]
fn changed_and_random_bytes_never_panic() {
    let [from_client, from_server] = conversation();
    assert!(from_client.len() > 600 && from_server.len() > 600);
    let rounds = std::env::var("FUZZ_ROUNDS").map_or(600, |text| text.parse().unwrap());
    for round in 0..rounds {
        let dice = noise(round, 16);
        let whole = if round % 2 == 0 {
            &from_client
        } else {
            &from_server
        };
        let mut data = match round % 5 {
            4 => noise(round, 3000),
            _ => whole.clone(),
        };
        for change in dice[..usize::from(dice[15] % 4)]
            .chunks_exact(2)
            .map(|it| (it[0], it[1]))
        {
            let at = (usize::from(change.0) << 8 | usize::from(change.1)) % data.len();
            data[at] = change.0.wrapping_add(change.1);
        }
        let (ours, mut theirs) = sockets();
        let mut end = if round % 2 == 0 {
            server_end(ours)
        } else {
            client_end(ours)
        };
        for piece in data.chunks(1 + usize::from(dice[14]) * 8) {
            if theirs.write_all(piece).is_err() {
                break;
            }
            if end.tls.is_handshaking() {
                if end.tls.handshake(&mut end.scratch).is_err() {
                    break;
                }
            } else {
                end.tls.readable = true;
                let _ = end.recv(1000);
                let _ = end.tls.send(b"x", &mut end.scratch);
            }
        }
        if !end.tls.is_handshaking() {
            theirs.shutdown(Shutdown::Write).unwrap();
            let _ = end.read_all(1000);
        }
        let _ = end.tls.send(b"x", &mut end.scratch);
        let _ = end.tls.close_notify(&mut end.scratch);
    }
}

#[test]
fn bytes_behind_the_handshake_are_attacked_too() {
    for round in 0..300 {
        let (mut server, mut client) = connected();
        client.send(&noise(round, 2000));
        client.update_keys();
        client.send(&noise(round, 20_000));
        let mut bytes = vec![0; 65536];
        while server.socket.peek(&mut bytes).unwrap_or(0) < 22_000 {}
        let count = server.socket.read(&mut bytes).unwrap();
        let dice = noise(round, 4);
        let at = (usize::from(dice[0]) << 8 | usize::from(dice[1])) % count;
        bytes[at] ^= dice[2];
        for piece in bytes[..count].chunks(1 + usize::from(dice[3]) * 50) {
            client.socket.write_all(piece).unwrap();
            let _ = server.recv(5000);
            server.tls.readable = true;
            let _ = server.tls.send(b"answer", &mut server.scratch);
        }
        let _ = server.read_all(5000);
        assert_eq!(server.tls.fault.is_some(), dice[2] != 0, "round {round}");
    }
}
