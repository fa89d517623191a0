//! The threads that move the bytes of pairs, and how pairs come and go.
//!
//! Each thread has an edge-triggered epoll set and its pairs, behind one mutex that it holds while it handles events. Who
//! wants a pair back waits for a turn of one pair at most: `asking` makes the thread let go of the mutex.

use crate::bridge::{self, Order, Outcome};
use crate::buffers::Buffers;
use crate::pair::{Cause, Figures, Flow, Pair, BACK, FRONT};
use crate::sys::{self, Bell, Epoll, Errno, Events, Watch};
use crate::tls::Scratch;
use std::collections::HashMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Events that are read from the kernel at once.
const MAX_EVENTS: usize = 128;
/// Between two looks at pairs that are slow, in milliseconds.
const SLOW_INTERVAL_MS: i32 = 100;
/// After which a side that accepts nothing is for Python to judge, in nanoseconds.
const MAX_BLOCKED: u64 = 1_000_000_000;
/// After which an ending is.
const MAX_ENDING: u64 = 250_000_000;
/// Endings after which Python is woken; fewer are told within LATEST_MS.
const MANY_ENDINGS: usize = 64;
const LATEST_MS: i32 = 5;
/// Token of the bell that stops a thread.
const STOP: u64 = u64::MAX;
const STACK_BYTES: usize = 256 * 1024;

/// Pairs of a thread.
#[derive(Default)]
struct World {
    slots: Vec<Slot>,
    free: Vec<usize>,
    by_tag: HashMap<u64, usize>,
    /// Pairs with work left.
    again: Vec<usize>,
    /// Pairs that are blocked or ending, and may have been.
    slow: Vec<usize>,
    /// Pairs that go back, not taken yet.
    #[expect(clippy::vec_box, reason = "a pair is large, and is moved often")]
    returned: Vec<Box<Pair>>,
    /// How many of them have ended, and when the first did.
    endings: usize,
    first_ending: u64,
    is_told: bool,
    buffers: Option<Buffers>,
    panics: u64,
    fail: bool,
}

#[derive(Default)]
struct Slot {
    pair: Option<Box<Pair>>,
    /// Changes with each pair, so that an event of an earlier one is known as such.
    generation: u32,
}

struct Shared {
    world: Mutex<World>,
    asking: AtomicUsize,
    epoll: Epoll,
    stop: Bell,
    stopping: AtomicBool,
    bell: Arc<Bell>,
}

fn token(index: usize, which: usize, generation: u32) -> u64 {
    u64::from(generation) << 32 | (which as u64) << 31 | index as u64
}

impl World {
    /// Adds a pair; gives whether its thread has to be woken.
    fn add(&mut self, epoll: &Epoll, pair: Box<Pair>) -> Result<bool, (Errno, Box<Pair>)> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let generation = self.slots[index].generation;
        for (which, side) in pair.sides.iter().enumerate() {
            let token = token(index, which, generation);
            if let Err(error) = epoll.add(side.wire.fd(), token, Watch::Input) {
                if which == BACK {
                    epoll.remove(pair.sides[FRONT].wire.fd());
                }
                self.slots[index].generation = generation.wrapping_add(1);
                self.free.push(index);
                return Err((error, pair));
            }
        }
        self.by_tag.insert(pair.tag, index);
        let has_input = pair.has_input();
        let must_wake = has_input || pair.may_be_slow();
        self.slots[index].pair = Some(pair);
        self.settle(
            epoll,
            index,
            if has_input { Flow::More } else { Flow::Wait },
        );
        Ok(must_wake)
    }

    /// Takes a pair out, whatever it does; closes what is the extension's own of one that has ended.
    fn remove(&mut self, epoll: &Epoll, index: usize, has_ended: bool) -> Option<Box<Pair>> {
        let slot = self.slots.get_mut(index)?;
        let mut pair = slot.pair.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        for side in &mut pair.sides {
            if !(has_ended && side.wire.close_own()) {
                epoll.remove(side.wire.fd());
            }
        }
        self.by_tag.remove(&pair.tag);
        self.free.push(index);
        Some(pair)
    }

    /// Does what the turn of a pair asks for.
    fn settle(&mut self, epoll: &Epoll, index: usize, flow: Flow) {
        match flow {
            Flow::Return(cause) => {
                if let Some(mut pair) = self.remove(epoll, index, cause == Cause::Ended) {
                    pair.cause = cause;
                    if cause == Cause::Ended {
                        if self.endings == 0 {
                            self.first_ending = sys::now();
                        }
                        self.endings += 1;
                    }
                    self.returned.push(pair);
                }
                return;
            }
            Flow::More => {
                if let Some(pair) = self.pair(index) {
                    if !pair.is_again {
                        pair.is_again = true;
                        self.again.push(index);
                    }
                }
            }
            Flow::Wait => {}
        }
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let generation = slot.generation;
        let Some(pair) = slot.pair.as_deref_mut() else {
            return;
        };
        if !pair.may_be_slow() {
            return;
        }
        for (which, side) in pair.sides.iter_mut().enumerate() {
            if side.is_blocked() && !side.watches_output {
                side.watches_output = true;
                let token = token(index, which, generation);
                // A descriptor that is watched already takes no more memory; nothing else can fail.
                let _ = epoll.change(side.wire.fd(), token, Watch::InputAndOutput);
            }
        }
        if !pair.is_slow {
            pair.is_slow = true;
            self.slow.push(index);
        }
    }

    fn pair(&mut self, index: usize) -> Option<&mut Pair> {
        self.slots.get_mut(index)?.pair.as_deref_mut()
    }

    /// Handles an event.
    fn on_event(&mut self, epoll: &Epoll, event: &sys::Event, now: u64) {
        let index = (event.token & 0x7fff_ffff) as usize;
        let which = (event.token >> 31 & 1) as usize;
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        if slot.generation != (event.token >> 32) as u32 {
            return;
        }
        let (Some(pair), Some(buffers)) = (slot.pair.as_deref_mut(), self.buffers.as_mut()) else {
            return;
        };
        let flow = pair.on_event(which, event, now, buffers);
        self.settle(epoll, index, flow);
    }

    /// Gives a pair with work left another turn.
    fn run_again(&mut self, epoll: &Epoll, index: usize, now: u64) {
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let (Some(pair), Some(buffers)) = (slot.pair.as_deref_mut(), self.buffers.as_mut()) else {
            return;
        };
        if !pair.is_again {
            return;
        }
        pair.is_again = false;
        let flow = pair.run_once(now, buffers);
        self.settle(epoll, index, flow);
    }

    /// Gives back the pairs that have been blocked, or ending, for too long.
    fn return_slow(&mut self, epoll: &Epoll, now: u64) {
        let mut slow = std::mem::take(&mut self.slow);
        slow.retain(|&index| {
            self.pair(index) // another one may have its place by now, and both are on the list
                .is_some_and(|pair| std::mem::take(&mut pair.is_slow))
        });
        for index in slow {
            let Some(pair) = self.pair(index) else {
                continue;
            };
            if pair.is_too_slow(now, MAX_BLOCKED, MAX_ENDING) {
                self.settle(epoll, index, Flow::Return(Cause::Slow));
            } else {
                self.settle(epoll, index, Flow::Wait);
            }
        }
    }

    /// Whether Python is to be woken now.
    fn must_tell(&mut self, now: u64) -> bool {
        let waits = !self.returned.is_empty() && !self.is_told;
        let is_late = now >= self.first_ending + LATEST_MS as u64 * 1_000_000;
        let urgent = self.returned.len() > self.endings || self.endings >= MANY_ENDINGS || is_late;
        self.is_told |= waits && urgent;
        waits && urgent
    }
}

impl Shared {
    /// Holds the mutex as soon as the thread has finished the turn of a pair.
    fn ask(&self) -> MutexGuard<'_, World> {
        self.asking.fetch_add(1, Ordering::AcqRel);
        let world = self.lock();
        self.asking.fetch_sub(1, Ordering::AcqRel);
        world
    }

    /// A thread that panicked has left its pairs to `return_all`, so that the state behind the mutex is sound.
    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets those have the mutex who ask for it.
    fn let_go<'a>(&'a self, world: MutexGuard<'a, World>) -> MutexGuard<'a, World> {
        if self.asking.load(Ordering::Acquire) == 0 {
            return world;
        }
        drop(world);
        while self.asking.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
        self.lock()
    }

    /// Handles events until stopped.
    fn run(&self) {
        let mut events = Events::new(MAX_EVENTS);
        let mut timeout = -1;
        let mut looked = sys::now();
        while !self.stopping.load(Ordering::Acquire) {
            self.epoll.wait(&mut events, timeout);
            let mut world = self.lock();
            let mut now = sys::now();
            for index in 0..events.len() {
                if let Some(event) = events.get(index) {
                    if event.token == STOP {
                        self.stop.silence();
                    } else {
                        world.on_event(&self.epoll, &event, now);
                    }
                }
                if self.asking.load(Ordering::Acquire) > 0 {
                    world = self.let_go(world);
                    now = sys::now();
                }
            }
            for index in std::mem::take(&mut world.again) {
                world.run_again(&self.epoll, index, now);
                world = self.let_go(world);
            }
            if std::mem::take(&mut world.fail) {
                panic!("as asked");
            }
            if !world.slow.is_empty() && now >= looked + SLOW_INTERVAL_MS as u64 * 1_000_000 {
                looked = now;
                world.return_slow(&self.epoll, now);
            }
            if world.must_tell(now) {
                self.bell.ring();
            }
            timeout = if !world.again.is_empty() {
                0
            } else if !world.returned.is_empty() && !world.is_told {
                LATEST_MS
            } else if !world.slow.is_empty() {
                SLOW_INTERVAL_MS
            } else {
                -1
            };
        }
    }

    /// Gives everything back after a panic.
    fn return_all(&self) {
        let mut world = self.lock();
        for index in 0..world.slots.len() {
            world.settle(&self.epoll, index, Flow::Return(Cause::Panic));
        }
        world.again.clear();
        world.slow.clear();
        world.buffers = Some(Buffers::new());
        world.panics += 1;
        world.is_told = true;
        drop(world);
        self.world.clear_poison();
        self.bell.ring();
    }
}

/// The threads.
pub struct Lane {
    threads: Vec<(Arc<Shared>, Option<JoinHandle<()>>)>,
    /// Rings when `take` has something; `None` once it is closed.
    bell: Option<Arc<Bell>>,
    next: usize,
    /// For responses to clients over TLS.
    scratch: Scratch,
}

impl Lane {
    /// Starts threads.
    pub fn new(count: usize) -> Result<Self, Errno> {
        let bell = Arc::new(Bell::new()?);
        let mut lane = Lane {
            threads: Vec::new(),
            bell: Some(bell.clone()),
            next: 0,
            scratch: Scratch::new(),
        };
        for _ in 0..count.max(1) {
            let shared = Arc::new(Shared {
                world: Mutex::new(World {
                    buffers: Some(Buffers::new()),
                    ..World::default()
                }),
                asking: AtomicUsize::new(0),
                epoll: Epoll::new()?,
                stop: Bell::new()?,
                stopping: AtomicBool::new(false),
                bell: bell.clone(),
            });
            shared.epoll.add(shared.stop.fd(), STOP, Watch::Readable)?;
            let own = shared.clone();
            let thread = std::thread::Builder::new()
                .name("wsbridge-engine".into())
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    // A bug ends the pairs of this thread; it goes on with new ones.
                    while catch_unwind(AssertUnwindSafe(|| own.run())).is_err() {
                        own.return_all();
                    }
                })
                .map_err(|error| error.raw_os_error().unwrap_or(libc::EAGAIN))?;
            lane.threads.push((shared, Some(thread)));
        }
        Ok(lane)
    }

    /// The descriptor that is readable when `take` has something; -1 once it is closed.
    pub fn fd(&self) -> i32 {
        self.bell.as_ref().map_or(-1, |bell| bell.fd())
    }

    fn shared(&self, thread: usize) -> Option<&Shared> {
        self.threads.get(thread).map(|(shared, _)| &**shared)
    }

    /// Carries pairs; gives the number of the thread of each. It does not carry those for which there is an error.
    ///
    /// A thread is woken by the first event of what it gets, so that pairs which come together cost less than one by one.
    pub fn add(&mut self, pairs: Vec<Box<Pair>>) -> Vec<Result<usize, (Errno, Box<Pair>)>> {
        let threads = self.threads.len().max(1);
        let share = pairs.len().div_ceil(threads);
        let mut results = Vec::with_capacity(pairs.len());
        let mut pairs = pairs.into_iter();
        while pairs.len() > 0 {
            let thread = self.next;
            self.next = (thread + 1) % threads;
            let given = pairs.by_ref().take(share);
            let Some(shared) = self.shared(thread) else {
                results.extend(given.map(|pair| Err((libc::EINVAL, pair))));
                continue;
            };
            let mut world = shared.ask();
            for pair in given {
                let added = world.add(&shared.epoll, pair);
                if matches!(added, Ok(true)) {
                    shared.stop.ring();
                }
                results.push(added.map(|_| thread));
            }
        }
        results
    }

    /// Connects backends, responds to clients, and carries the pairs; gives the nanoseconds that each connect took, too.
    pub fn bridge(&mut self, orders: Vec<Order>) -> Vec<(Outcome, u64)> {
        let mut pairs = Vec::with_capacity(orders.len());
        let mut failures = Vec::with_capacity(orders.len());
        for order in orders {
            let (begun, nanoseconds) = bridge::begin(order, &mut self.scratch);
            failures.push(match begun {
                Ok(pair) => {
                    pairs.push(pair);
                    (None, nanoseconds)
                }
                Err(failure) => (Some(failure), nanoseconds),
            });
        }
        let mut added = self.add(pairs).into_iter();
        let outcomes = failures.into_iter().filter_map(|(failure, nanoseconds)| {
            let outcome = match failure {
                Some(failure) => Outcome::Failed(Box::new(failure)),
                None => match added.next()? {
                    Ok(thread) => Outcome::Carried(thread),
                    Err((_, pair)) => Outcome::Unwatched(pair),
                },
            };
            Some((outcome, nanoseconds))
        });
        outcomes.collect()
    }

    /// Takes a pair back at once, also one that goes back and was not taken yet.
    pub fn recall(&self, thread: usize, tag: u64) -> Option<Box<Pair>> {
        let shared = self.shared(thread)?;
        let mut world = shared.ask();
        if let Some(&index) = world.by_tag.get(&tag) {
            return world.remove(&shared.epoll, index, false);
        }
        let index = world.returned.iter().position(|pair| pair.tag == tag)?;
        let pair = world.returned.swap_remove(index);
        world.endings -= usize::from(pair.cause == Cause::Ended);
        Some(pair)
    }

    /// Bytes and times of a pair; `None` if it is not carried.
    pub fn figures(&self, thread: usize, tag: u64) -> Option<Figures> {
        let mut world = self.shared(thread)?.ask();
        let index = *world.by_tag.get(&tag)?;
        world.pair(index).map(|pair| pair.figures())
    }

    /// Takes pairs that go back, at most as many of each thread, and how many threads panicked.
    ///
    /// The bell rings on where some are left: thousands that end together are not to keep Python busy in one turn.
    pub fn take(&self, most: usize) -> (Vec<Box<Pair>>, u64) {
        if let Some(bell) = &self.bell {
            bell.silence();
        }
        let mut pairs = Vec::new();
        let mut panics = 0;
        for (shared, _) in &self.threads {
            let mut world = shared.ask();
            let count = world.returned.len().min(most);
            let taken = pairs.len();
            pairs.extend(world.returned.drain(..count));
            let ended = pairs[taken..]
                .iter()
                .filter(|pair| pair.cause == Cause::Ended);
            world.endings -= ended.count();
            world.is_told = !world.returned.is_empty();
            if world.is_told {
                shared.bell.ring();
            }
            panics += std::mem::take(&mut world.panics);
        }
        (pairs, panics)
    }

    /// Makes a thread panic, as a bug would.
    pub fn fail(&self, thread: usize) {
        if let Some(shared) = self.shared(thread) {
            shared.ask().fail = true;
            shared.stop.ring();
        }
    }

    /// Stops the threads; pairs that are left are forgotten, their descriptors stay open.
    pub fn close(&mut self) {
        for (shared, _) in &self.threads {
            shared.stopping.store(true, Ordering::Release);
            shared.stop.ring();
        }
        for (_, thread) in &mut self.threads {
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
        self.threads.clear();
        self.bell = None;
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pair::Stage;
    use crate::side::Side;
    use crate::wire::{Plain, Wire};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    /// A pair that is ending, and the sockets that it lives on.
    fn ending_pair(tag: u64) -> (Box<Pair>, Vec<UnixStream>) {
        let sockets: Vec<_> = (0..2)
            .flat_map(|_| UnixStream::pair().map(|(ours, theirs)| [ours, theirs]))
            .flatten()
            .collect();
        let side =
            |index: usize| Side::raw(Wire::Plain(Plain::new(sockets[index].as_raw_fd(), true)));
        let mut pair = Box::new(Pair::new(tag, side(0), side(2), false));
        pair.stage = Stage::ClientClosed;
        pair.stage_since = sys::now();
        (pair, sockets)
    }

    #[test]
    fn a_place_that_many_slow_pairs_had_is_looked_at_once() {
        let epoll = Epoll::new().unwrap();
        let mut world = World::default();
        let mut kept = Vec::new();
        for tag in 0..10 {
            let (pair, sockets) = ending_pair(tag);
            kept.push(sockets);
            assert!(world.add(&epoll, pair).is_ok());
            if tag < 9 {
                assert!(world.remove(&epoll, 0, false).is_some());
            }
        }
        world.return_slow(&epoll, sys::now());
        assert_eq!(world.slow, [0]);
    }
}
