//! What Python sees: `Lane`, with a pair as a tuple of values, and times as seconds that have passed since.

use crate::bridge::{Failure, Order, Outcome};
use crate::frame::{Decoder, Role, TextMessages, MAX_CONTROL_BYTES, MAX_HEADER_BYTES};
use crate::lane;
use crate::pair::{Cause, Pair, Stage, BACK};
use crate::side::{ControlLimit, Side};
use crate::sys::{self, Address};
use crate::tls_python::TlsStream;
use crate::wire::{Plain, Wire};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyTuple};
use std::net::{IpAddr, SocketAddr};

/// Fields of `WebSocketFraming` that change while frames are read, in the order of its definition.
type Framing = (
    u64,
    Vec<u8>,
    u64,
    Vec<u8>,
    bool,
    u8,
    Vec<u8>,
    u8,
    bool,
    Vec<u8>,
);

/// Descriptor, protocol, text messages, whether to read until nothing is left, largest frame, control frames a second,
/// seconds since their window began, their number then, the state of the framing, the TLS connection, what was read and
/// not decoded, and what the kernel did not accept, with the seconds since it accepted anything.
type GivenSide = (
    i32,
    u8,
    u8,
    bool,
    usize,
    u64,
    f64,
    u64,
    Option<Framing>,
    Option<Py<TlsStream>>,
    PyBackedBytes,
    Option<(PyBackedBytes, f64)>,
);

/// Tag, whether the common ending of WebSocket clients is carried on, front and back, and whether the descriptor of the
/// back becomes the extension's own, if it carries the pair.
type LentPair = (u64, bool, GivenSide, GivenSide, bool);

/// Tag, whether the common ending of WebSocket clients is carried on, front, host or path of the backend, its port (-1
/// for a path), and the response to the client.
type GivenOrder = (u64, bool, GivenSide, PyBackedBytes, i32, PyBackedBytes);

/// The address of a backend; a host is an IP address.
fn address(host: &[u8], port: i32) -> Option<Address> {
    let Ok(port) = u16::try_from(port) else {
        return Some(Address::Unix(host.to_vec())).filter(|_| !host.contains(&0));
    };
    let host: IpAddr = std::str::from_utf8(host).ok()?.parse().ok()?;
    Some(Address::Tcp(SocketAddr::new(host, port)))
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1e9) as u64 // saturates
}

/// Seconds since a time; -1 for never.
fn age(time: u64, now: u64) -> f64 {
    if time == 0 {
        -1.0
    } else {
        now.saturating_sub(time) as f64 / 1e9
    }
}

/// Copies bytes to the beginning of an array; gives their number.
fn fill(array: &mut [u8], bytes: &[u8], name: &str) -> PyResult<usize> {
    match array.get_mut(..bytes.len()) {
        Some(room) => {
            room.copy_from_slice(bytes);
            Ok(bytes.len())
        }
        None => Err(PyValueError::new_err(format!(
            "{name} of {} bytes is too long",
            bytes.len()
        ))),
    }
}

/// Protocols without frames; at the second, the first bytes may be HTTP. Others are WebSocket, as server or client.
const RAW: u8 = 0;
const GUARDED: u8 = 3;

fn decoder(protocol: u8, text: u8, state: Option<Framing>) -> PyResult<Option<Decoder>> {
    let role = match protocol {
        RAW | GUARDED => return Ok(None),
        1 => Role::Server,
        _ => Role::Client,
    };
    let text_messages = match text {
        0 => TextMessages::Accept,
        1 => TextMessages::Reject,
        _ => TextMessages::Bytes,
    };
    let mut decoder = Decoder::new(role, text_messages);
    if let Some((count, header, left, key, fin, control, body, message, started, tail)) = state {
        decoder.control_frame_count = count;
        let mut partial_header = [0; MAX_HEADER_BYTES];
        decoder.partial_header_size = fill(&mut partial_header, &header, "header")?;
        decoder.partial_header = partial_header;
        decoder.payload_left = left;
        fill(&mut decoder.mask_key, &key, "masking key")?;
        decoder.fin = fin;
        decoder.control_opcode = control;
        let mut control_body = [0; MAX_CONTROL_BYTES];
        decoder.control_body_size = fill(&mut control_body, &body, "control frame")?;
        decoder.control_body = control_body;
        decoder.message_opcode = message;
        decoder.message_started = started;
        decoder.utf8_tail_size = fill(&mut decoder.utf8_tail, &tail, "character")?;
    }
    Ok(Some(decoder))
}

/// Makes a side; takes the connection out of its stream.
fn side(py: Python<'_>, given: GivenSide, now: u64) -> PyResult<Side> {
    let (
        fd,
        protocol,
        text,
        until_empty,
        max_frame_bytes,
        rate,
        window_age,
        window_base,
        state,
        tls,
        input,
        unsent,
    ) = given;
    let control = ControlLimit {
        rate,
        window_start: now.saturating_sub(nanoseconds(window_age)),
        window_base,
    };
    let decoder = decoder(protocol, text, state)?.map(Box::new);
    let wire = match tls {
        None => {
            let mut wire = Plain::new(fd, until_empty);
            if let Some((unsent, _)) = &unsent {
                wire.keep_unsent(unsent);
            }
            Wire::Plain(wire)
        }
        Some(stream) => match stream.try_borrow_mut(py)?.take() {
            None => return Err(PyValueError::new_err("the TLS connection is elsewhere")),
            Some(mut connection) => {
                connection.readable = true;
                Wire::Tls(connection)
            }
        },
    };
    let mut side = Side::new(wire, decoder, max_frame_bytes, control);
    side.guarded = protocol == GUARDED;
    side.input = input.to_vec();
    if let Some((_, age)) = unsent {
        side.blocked_since = now.saturating_sub(nanoseconds(age)).max(1);
    }
    Ok(side)
}

fn framing<'py>(py: Python<'py>, decoder: &Decoder) -> PyResult<Bound<'py, PyTuple>> {
    let masked = decoder.role == Role::Server;
    (
        decoder.control_frame_count,
        PyBytes::new(py, &decoder.partial_header[..decoder.partial_header_size]),
        decoder.payload_left,
        PyBytes::new(py, if masked { &decoder.mask_key } else { &[] }),
        decoder.fin,
        decoder.control_opcode,
        PyBytes::new(py, decoder.control_body()),
        decoder.message_opcode,
        decoder.message_started,
        PyBytes::new(py, &decoder.utf8_tail[..decoder.utf8_tail_size]),
    )
        .into_pyobject(py)
}

fn returned_side<'py>(py: Python<'py>, mut side: Side, now: u64) -> PyResult<Bound<'py, PyTuple>> {
    let descriptor = side.wire.release().unwrap_or(-1);
    let state = side
        .decoder
        .as_ref()
        .map(|decoder| framing(py, decoder))
        .transpose()?;
    let sent_bytes = side.wire.sent_bytes() - side.sent_before;
    let is_blocked = side.is_blocked();
    let (unsent, stream) = match side.wire {
        Wire::Plain(wire) => (PyBytes::new(py, wire.unsent()), None),
        Wire::Tls(connection) => (
            PyBytes::new(py, &[]),
            Some(Py::new(py, TlsStream::of(connection))?),
        ),
    };
    (
        side.received_bytes,
        sent_bytes,
        age(side.last_received, now),
        age(side.last_sent, now),
        if side.read_error == 0 {
            side.write_error
        } else {
            side.read_error
        },
        side.hung_up,
        is_blocked.then_some(unsent),
        side.pending_pong
            .as_ref()
            .map(|body| PyBytes::new(py, body)),
        PyBytes::new(py, &side.input),
        (
            age(side.control.window_start, now),
            side.control.window_base,
        ),
        state,
        (stream, descriptor),
    )
        .into_pyobject(py)
}

fn returned<'py>(py: Python<'py>, pair: Box<Pair>) -> PyResult<Bound<'py, PyTuple>> {
    let now = sys::now();
    let cause = match pair.cause {
        Cause::Recalled => "recalled",
        Cause::Unusual => "unusual",
        Cause::End => "end",
        Cause::Error => "error",
        Cause::Slow => "slow",
        Cause::Ended => "ended",
        Cause::Panic => "panic",
    };
    let stage = match pair.stage {
        Stage::Open => "open",
        Stage::ClientClosed => "client_closed",
        Stage::BackendClosed => "backend_closed",
    };
    let pair = *pair;
    let [front, back] = pair.sides;
    let (front, back) = if pair.cause == Cause::Ended {
        let bytes = |side: &Side| side.received_bytes.into_pyobject(py).map(Bound::into_any);
        (bytes(&front)?, bytes(&back)?)
    } else {
        let front = returned_side(py, front, now)?.into_any();
        (front, returned_side(py, back, now)?.into_any())
    };
    let body = PyBytes::new(py, &pair.close_body);
    (
        pair.tag,
        cause,
        stage,
        body,
        age(pair.stage_since, now),
        age(pair.last_payload, now),
        front,
        back,
    )
        .into_pyobject(py)
}

/// Puts the TLS connection of a side that was not carried back into its stream.
fn give_back(py: Python<'_>, side: Side, stream: Option<Py<TlsStream>>) {
    if let (Wire::Tls(connection), Some(stream)) = (side.wire, stream) {
        stream.borrow_mut(py).put(connection);
    }
}

/// Threads that carry pairs; see wsbridge/native/engine.py.
#[pyclass]
struct Lane {
    lane: lane::Lane,
}

/// See `Lane::bridge`.
type Bridged<'py> = (i64, i32, f64, Option<Bound<'py, PyTuple>>);

type Live = ((u64, u64), f64, (f64, f64), (f64, f64), (f64, f64));

#[pymethods]
impl Lane {
    #[new]
    fn new(threads: usize) -> PyResult<Self> {
        let lane = lane::Lane::new(threads).map_err(os_error)?;
        Ok(Lane { lane })
    }

    fn fileno(&self) -> i32 {
        self.lane.fd()
    }

    /// Carries pairs; returns the number of each one's thread, or the negative errno of one that it does not carry.
    fn add(&mut self, py: Python<'_>, given: Vec<LentPair>) -> PyResult<Vec<i64>> {
        let now = sys::now();
        let mut pairs = Vec::with_capacity(given.len());
        let mut streams = Vec::with_capacity(given.len());
        let mut taken_over = Vec::new();
        for (tag, ends_here, front, back, takes_over) in given {
            if takes_over {
                taken_over.push(pairs.len());
            }
            streams
                .push([&front.9, &back.9].map(|stream| stream.as_ref().map(|it| it.clone_ref(py))));
            let (front, back) = (side(py, front, now)?, side(py, back, now)?);
            pairs.push(Box::new(Pair::new(tag, front, back, ends_here)));
        }
        for index in taken_over {
            pairs[index].sides[BACK].wire.take_over();
        }
        let lane = &mut self.lane;
        let added = py.detach(|| lane.add(pairs));
        let numbers = added
            .into_iter()
            .zip(streams)
            .map(|(thread, streams)| match thread {
                Ok(thread) => thread as i64,
                Err((error, pair)) => {
                    for (mut side, stream) in pair.sides.into_iter().zip(streams) {
                        side.wire.release();
                        give_back(py, side, stream);
                    }
                    -i64::from(error)
                }
            });
        Ok(numbers.collect())
    }

    /// Connects backends, responds to clients, and carries the pairs. Returns of each the number of its thread, or the
    /// negative errno of a backend that is not connected; the errno of a client that does not accept its response; the
    /// seconds that connecting took; and the pair, where it is connected and no thread can watch it.
    fn bridge<'py>(
        &mut self,
        py: Python<'py>,
        given: Vec<GivenOrder>,
    ) -> PyResult<Vec<Bridged<'py>>> {
        let now = sys::now();
        let mut orders = Vec::with_capacity(given.len());
        let mut streams = Vec::with_capacity(given.len());
        for (tag, ends_here, front, host, port, response) in given {
            let stream = front.9.as_ref().map(|stream| stream.clone_ref(py));
            let Some(address) = address(&host, port) else {
                streams.push(None);
                continue;
            };
            orders.push(Order {
                tag,
                front: side(py, front, now)?,
                address,
                response: response.to_vec(),
                ends_here,
            });
            streams.push(Some(stream));
        }
        let lane = &mut self.lane;
        let mut outcomes = py.detach(|| lane.bridge(orders)).into_iter();
        let bridged = streams.into_iter().map(|stream| {
            let (Some(stream), Some((outcome, spent))) = (stream, outcomes.next()) else {
                return Ok((-i64::from(libc::EINVAL), 0, 0.0, None)); // an address that is none
            };
            let seconds = spent as f64 / 1e9;
            Ok(match outcome {
                Outcome::Carried(thread) => (thread as i64, 0, seconds, None),
                Outcome::Unwatched(pair) => (-1, 0, seconds, Some(returned(py, pair)?)),
                Outcome::Failed(failure) => {
                    let (number, client_error, front) = match *failure {
                        Failure::Backend(error, front) => (-i64::from(error), 0, front),
                        Failure::Client(error, front) => (-1, error, front),
                    };
                    give_back(py, front, stream);
                    (number, client_error, seconds, None)
                }
            })
        });
        bridged.collect()
    }

    /// Takes a pair back at once; None if it is not here.
    fn recall<'py>(
        &self,
        py: Python<'py>,
        thread: usize,
        tag: u64,
    ) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let pair = py.detach(|| self.lane.recall(thread, tag));
        pair.map(|pair| returned(py, pair)).transpose()
    }

    /// Takes pairs that go back, at most as many of each thread, and how many threads panicked since the last call.
    fn take<'py>(&self, py: Python<'py>, most: usize) -> PyResult<(Vec<Bound<'py, PyTuple>>, u64)> {
        let (pairs, panics) = py.detach(|| self.lane.take(most));
        let pairs = pairs
            .into_iter()
            .map(|pair| returned(py, pair))
            .collect::<PyResult<_>>()?;
        Ok((pairs, panics))
    }

    /// Payload bytes, and seconds since payload moved, bytes came, bytes were accepted, and each side was blocked.
    fn figures(&self, py: Python<'_>, thread: usize, tag: u64) -> Option<Live> {
        let found = py.detach(|| self.lane.figures(thread, tag))?;
        let now = sys::now();
        let ages = |times: [u64; 2]| (age(times[0], now), age(times[1], now));
        Some((
            found.received.into(),
            age(found.last_payload, now),
            ages(found.last_received),
            ages(found.last_sent),
            ages(found.blocked_since),
        ))
    }

    /// Makes a thread panic, as a bug would; for tests.
    fn fail(&self, py: Python<'_>, thread: usize) {
        py.detach(|| self.lane.fail(thread));
    }

    /// Stops the threads; the descriptors of pairs that are left stay open.
    fn close(&mut self, py: Python<'_>) {
        let lane = &mut self.lane;
        py.detach(|| lane.close());
    }
}

fn os_error(error: sys::Errno) -> PyErr {
    PyOSError::new_err((error, std::io::Error::from_raw_os_error(error).to_string()))
}

/// See wsbridge/native/__init__.py.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Lane>()?;
    crate::log_members::register(module)?;
    crate::tls_python::register(module)
}
