//! Pairs whose backend is on this machine: it is connected, the client gets its response, and the pair is carried.
//!
//! Where that fails, nothing was sent to the client, and Python goes on from there: it knows when to try again, and what
//! to say.

use crate::pair::{Pair, BACK, FRONT};
use crate::side::Side;
use crate::sys::{self, Address, Errno};
use crate::tls::Scratch;
use crate::wire::{Plain, Wire};

/// A client that waits for its response, and where its backend is.
pub struct Order {
    pub tag: u64,
    pub front: Side,
    pub address: Address,
    /// What the client gets once the backend is connected; empty for nothing.
    pub response: Vec<u8>,
    /// See `Pair::new`.
    pub ends_here: bool,
}

/// Why an order was not carried out; the front is as it was.
pub enum Failure {
    /// The backend was not connected.
    Backend(Errno, Side),
    /// The client did not accept its response.
    Client(Errno, Side),
}

/// What became of an order.
pub enum Outcome {
    /// The pair is carried, by this thread.
    Carried(usize),
    /// Everything was done, but no thread can watch the pair.
    Unwatched(Box<Pair>),
    Failed(Box<Failure>),
}

/// Connects the backend and sends the response; gives the nanoseconds that connecting took, too.
pub fn begin(order: Order, scratch: &mut Scratch) -> (Result<Box<Pair>, Failure>, u64) {
    let Order {
        tag,
        mut front,
        address,
        response,
        ends_here,
    } = order;
    let started = sys::now();
    let result = sys::connect(&address);
    let now = sys::now();
    let nanoseconds = now.saturating_sub(started);
    let socket = match result {
        Ok(socket) => socket,
        Err(error) => return (Err(Failure::Backend(error, front)), nanoseconds),
    };
    let accepted = if response.is_empty() {
        Ok(true)
    } else {
        front.wire.send(&response, &[], scratch)
    };
    match accepted {
        Ok(true) => {}
        Ok(false) if front.wire.sent_bytes() == front.sent_before => {
            if let Wire::Plain(_) = front.wire {
                return (Err(Failure::Client(libc::EAGAIN, front)), nanoseconds);
            }
            front.blocked_since = now;
        }
        Ok(false) => front.blocked_since = now,
        Err(error) => return (Err(Failure::Client(error, front)), nanoseconds),
    }
    let wire = Wire::Plain(Plain::owned(socket, matches!(address, Address::Unix(_))));
    let mut pair = Box::new(Pair::new(tag, front, Side::raw(wire), ends_here));
    for which in [FRONT, BACK] {
        if let Wire::Plain(wire) = &mut pair.sides[which].wire {
            wire.readable = false; // an event reports what has come, as soon as it is watched
        }
    }
    (Ok(pair), nanoseconds)
}
