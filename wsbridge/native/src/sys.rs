//! System calls on descriptors that somebody else owns. Every `unsafe` of the crate is here, each with its reason.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::RawFd;

/// The number of a system error, such as `ECONNRESET`.
pub type Errno = i32;

fn errno() -> Errno {
    // SAFETY: the C library gives each thread its own, always valid.
    unsafe { *libc::__errno_location() }
}

/// Turns -1 into the error.
fn checked(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| errno())
}

/// Nanoseconds of the monotonic clock.
pub fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writing.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Fills the buffer from the randomness of the system, also where signals interrupt that; false if there is none.
pub fn random(buffer: &mut [u8]) -> bool {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|it| !it.is_empty()) {
        // SAFETY: pointer and length are those of a slice that is writable.
        match checked(unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) }) {
            Ok(0) => return false,
            Ok(count) => filled += count,
            Err(libc::EINTR) => {}
            Err(_) => return false,
        }
    }
    true
}

/// Reads once; `None` if nothing waits, 0 at the end of the stream.
pub fn recv(fd: RawFd, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
    loop {
        // SAFETY: pointer and length are those of a slice that is writable.
        match checked(unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) }) {
            Ok(count) => return Ok(Some(count)),
            Err(libc::EINTR) => {}
            Err(libc::EAGAIN) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Most buffers of one call.
pub const MAX_BUFFERS: usize = 8;

/// Reads once into slots of a buffer: into `size` bytes after each `gap` bytes, `slots` times, at most MAX_BUFFERS.
///
/// The buffer must be `slots * (gap + size)` bytes long; else fewer slots are used.
pub fn recv_strided(
    fd: RawFd,
    buffer: &mut [u8],
    gap: usize,
    size: usize,
    slots: usize,
) -> Result<Option<usize>, Errno> {
    let mut vector = [libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    }; MAX_BUFFERS];
    let mut count = 0;
    for slot in buffer
        .chunks_exact_mut(gap + size)
        .take(slots.min(MAX_BUFFERS))
    {
        let payload = &mut slot[gap..];
        vector[count] = libc::iovec {
            iov_base: payload.as_mut_ptr().cast(),
            iov_len: payload.len(),
        };
        count += 1;
    }
    loop {
        // SAFETY: each of the first `count` entries is a part of `buffer`, which is writable and outlives the call.
        match checked(unsafe { libc::readv(fd, vector.as_ptr(), count as libc::c_int) }) {
            Ok(count) => return Ok(Some(count)),
            Err(libc::EINTR) => {}
            Err(libc::EAGAIN) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Writes two buffers once, in order; gives how many bytes the kernel accepted.
pub fn send(fd: RawFd, first: &[u8], second: &[u8]) -> Result<usize, Errno> {
    let vector = [
        libc::iovec {
            iov_base: first.as_ptr().cast_mut().cast(),
            iov_len: first.len(),
        },
        libc::iovec {
            iov_base: second.as_ptr().cast_mut().cast(),
            iov_len: second.len(),
        },
    ];
    loop {
        let result = if second.is_empty() {
            // SAFETY: pointer and length are those of a slice.
            unsafe { libc::send(fd, first.as_ptr().cast(), first.len(), libc::MSG_NOSIGNAL) }
        } else {
            // SAFETY: all zeros is a valid msghdr: no name, no control data.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = vector.as_ptr().cast_mut();
            message.msg_iovlen = vector.len() as _;
            // SAFETY: the two entries are slices that outlive the call; the kernel only reads them.
            unsafe { libc::sendmsg(fd, &message, libc::MSG_NOSIGNAL) }
        };
        match checked(result) {
            Ok(count) => return Ok(count),
            Err(libc::EINTR) => {}
            Err(libc::EAGAIN) => return Ok(0),
            Err(error) => return Err(error),
        }
    }
}

/// Most parts of one write.
const MAX_PARTS: usize = 16;

/// Writes parts of a buffer once, in order, at most MAX_PARTS of them; gives how many bytes the kernel accepted.
pub fn send_parts(fd: RawFd, buffer: &[u8], parts: &[Range<usize>]) -> Result<usize, Errno> {
    let mut vector = [libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    }; MAX_PARTS];
    let slices = parts.iter().filter_map(|part| buffer.get(part.clone()));
    let mut count = 0;
    for (entry, slice) in vector.iter_mut().zip(slices) {
        *entry = libc::iovec {
            iov_base: slice.as_ptr().cast_mut().cast(),
            iov_len: slice.len(),
        };
        count += 1;
    }
    // SAFETY: all zeros is a valid msghdr: no name, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vector.as_mut_ptr();
    message.msg_iovlen = count as _;
    loop {
        // SAFETY: the first `count` entries are parts of `buffer`, which outlives the call; the kernel only reads them.
        match checked(unsafe { libc::sendmsg(fd, &message, libc::MSG_NOSIGNAL) }) {
            Ok(count) => return Ok(count),
            Err(libc::EINTR) => {}
            Err(libc::EAGAIN) => return Ok(0),
            Err(error) => return Err(error),
        }
    }
}

/// Sends FIN; a connection that is gone is no error.
pub fn send_fin(fd: RawFd) {
    // SAFETY: takes no pointer.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Keeps what is written in the kernel until FIN follows, or until it is let go, so that all of it is one segment; does
/// nothing to a Unix socket.
pub fn hold_segments(fd: RawFd, hold: bool) {
    let value = libc::c_int::from(hold);
    let value = std::ptr::from_ref(&value).cast();
    // SAFETY: reads the four bytes of `value`.
    unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_CORK, value, 4) };
}

/// A descriptor of our own, closed when it is dropped.
pub struct OwnFd(RawFd);

impl OwnFd {
    /// Takes over a descriptor, which nobody else may close from now on.
    pub fn take_over(fd: RawFd) -> Self {
        OwnFd(fd)
    }

    pub fn raw(&self) -> RawFd {
        self.0
    }

    /// Gives it to somebody else, who closes it.
    pub fn release(self) -> RawFd {
        let fd = self.0;
        std::mem::forget(self);
        fd
    }
}

impl Drop for OwnFd {
    fn drop(&mut self) {
        // SAFETY: it was opened here and is closed once.
        unsafe { libc::close(self.0) };
    }
}

/// Where a backend on this machine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    /// Path of a socket file, without a zero byte.
    Unix(Vec<u8>),
}

/// An address as the kernel has it.
#[repr(C)]
union RawAddress {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
    unix: libc::sockaddr_un,
}

impl Address {
    fn family(&self) -> libc::c_int {
        match self {
            Address::Tcp(SocketAddr::V4(_)) => libc::AF_INET,
            Address::Tcp(SocketAddr::V6(_)) => libc::AF_INET6,
            Address::Unix(_) => libc::AF_UNIX,
        }
    }

    /// The form of the kernel, and its length.
    fn encode(&self) -> Result<(RawAddress, usize), Errno> {
        // SAFETY: all zeros is a valid value of each of these structures.
        let mut raw: RawAddress = unsafe { std::mem::zeroed() };
        let size = match self {
            Address::Tcp(SocketAddr::V4(address)) => {
                raw.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(address.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                std::mem::size_of::<libc::sockaddr_in>()
            }
            Address::Tcp(SocketAddr::V6(address)) => {
                raw.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: address.ip().octets(),
                    },
                    sin6_scope_id: 0,
                };
                std::mem::size_of::<libc::sockaddr_in6>()
            }
            Address::Unix(path) => {
                let mut unix = libc::sockaddr_un {
                    sun_family: libc::AF_UNIX as libc::sa_family_t,
                    sun_path: [0; 108],
                };
                if path.len() >= unix.sun_path.len() {
                    return Err(libc::ENAMETOOLONG);
                }
                for (place, byte) in unix.sun_path.iter_mut().zip(path) {
                    *place = *byte as libc::c_char;
                }
                raw.unix = unix;
                std::mem::size_of::<libc::sa_family_t>() + path.len() + 1
            }
        };
        Ok((raw, size))
    }
}

fn set_flag(fd: RawFd, level: libc::c_int, name: libc::c_int) -> Result<(), Errno> {
    let one: libc::c_int = 1;
    // SAFETY: reads the four bytes of `one`.
    let result = unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(&one).cast(), 4) };
    checked(result as isize).map(|_| ())
}

/// Whether a socket has the address that it was connected to: TCP's simultaneous open with itself.
fn is_own_address(fd: RawFd, address: &Address) -> Result<bool, Errno> {
    let Address::Tcp(address) = address else {
        return Ok(false);
    };
    // SAFETY: all zeros is a valid value of each of these structures.
    let mut raw: RawAddress = unsafe { std::mem::zeroed() };
    let mut size = std::mem::size_of::<RawAddress>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes, which `raw` has.
    let result = unsafe { libc::getsockname(fd, std::ptr::from_mut(&mut raw).cast(), &mut size) };
    checked(result as isize)?;
    // SAFETY: a socket of this family has an address of this kind; both were all zeros before.
    let port = u16::from_be(unsafe {
        match address {
            SocketAddr::V4(_) => raw.v4.sin_port,
            SocketAddr::V6(_) => raw.v6.sin6_port,
        }
    });
    if port != address.port() {
        return Ok(false);
    }
    // SAFETY: as above.
    Ok(unsafe {
        match address {
            SocketAddr::V4(own) => raw.v4.sin_addr.s_addr == u32::from_ne_bytes(own.ip().octets()),
            SocketAddr::V6(own) => raw.v6.sin6_addr.s6_addr == own.ip().octets(),
        }
    })
}

/// Connects to an address of this machine, which takes no waiting, and sets the options of a backend's socket.
pub fn connect(address: &Address) -> Result<OwnFd, Errno> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: takes no pointer.
    let socket =
        OwnFd(checked(unsafe { libc::socket(address.family(), kind, 0) } as isize)? as RawFd);
    connect_socket(&socket, address)?;
    if let Address::Tcp(_) = address {
        set_flag(socket.raw(), libc::IPPROTO_TCP, libc::TCP_NODELAY)?;
        set_flag(socket.raw(), libc::SOL_SOCKET, libc::SO_OOBINLINE)?;
    }
    Ok(socket)
}

fn connect_socket(socket: &OwnFd, address: &Address) -> Result<(), Errno> {
    let (raw, size) = address.encode()?;
    let attempt = || {
        // SAFETY: `raw` is valid for `size` bytes and outlives the call.
        let result = unsafe {
            libc::connect(
                socket.raw(),
                std::ptr::from_ref(&raw).cast(),
                size as libc::socklen_t,
            )
        };
        checked(result as isize)
    };
    let result = match attempt() {
        Err(libc::EINPROGRESS) => attempt(), // over the loopback interface it is known by now
        result => result,
    };
    match result {
        Ok(_) | Err(libc::EISCONN) => {}
        Err(error) => return Err(error),
    }
    if is_own_address(socket.raw(), address)? {
        return Err(libc::ECONNREFUSED);
    }
    Ok(())
}

/// Wakes a thread that waits for its descriptor to be readable.
pub struct Bell(OwnFd);

impl Bell {
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        checked(fd as isize).map(|_| Bell(OwnFd(fd)))
    }

    pub fn fd(&self) -> RawFd {
        self.0.raw()
    }

    pub fn ring(&self) {
        let one = 1_u64;
        // SAFETY: reads the eight bytes of `one`. It fails only if the bell rings already, 2^64 times.
        unsafe { libc::write(self.fd(), std::ptr::from_ref(&one).cast(), 8) };
    }

    pub fn silence(&self) {
        let mut count = 0_u64;
        // SAFETY: writes eight bytes to `count`. It fails if the bell does not ring.
        unsafe { libc::read(self.fd(), std::ptr::from_mut(&mut count).cast(), 8) };
    }
}

/// Event of a descriptor.
#[derive(Clone, Copy)]
pub struct Event {
    pub token: u64,
    pub readable: bool,
    /// FIN, a hang-up or an error.
    pub hung_up: bool,
    pub error: bool,
    pub urgent: bool,
}

/// An epoll set.
pub struct Epoll {
    fd: OwnFd,
}

/// What a descriptor is watched for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Being readable, for as long as it is.
    Readable,
    /// Edges of input and ends.
    Input,
    /// Those, and that it accepts bytes again: for the few that have not.
    InputAndOutput,
}

impl Watch {
    fn events(self) -> u32 {
        let input = libc::EPOLLIN | libc::EPOLLPRI | libc::EPOLLRDHUP | libc::EPOLLET;
        let events = match self {
            Watch::Readable => libc::EPOLLIN,
            Watch::Input => input,
            Watch::InputAndOutput => input | libc::EPOLLOUT,
        };
        events as u32
    }
}

impl Epoll {
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        checked(fd as isize).map(|_| Epoll { fd: OwnFd(fd) })
    }

    /// Watches a descriptor.
    pub fn add(&self, fd: RawFd, token: u64, watch: Watch) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, watch)
    }

    /// Watches a descriptor for something else; reports what is there already.
    pub fn change(&self, fd: RawFd, token: u64, watch: Watch) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, watch)
    }

    fn control(&self, what: i32, fd: RawFd, token: u64, watch: Watch) -> Result<(), Errno> {
        let events = watch.events();
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: `event` outlives the call.
        let result = unsafe { libc::epoll_ctl(self.fd.raw(), what, fd, &mut event) };
        checked(result as isize).map(|_| ())
    }

    /// Watches it no longer; one that is closed is not watched.
    pub fn remove(&self, fd: RawFd) {
        // SAFETY: no pointer is needed for EPOLL_CTL_DEL.
        unsafe { libc::epoll_ctl(self.fd.raw(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    /// Waits for events, at most as many as the buffer has room for; none if a signal comes first.
    pub fn wait(&self, events: &mut Events, timeout_ms: i32) {
        let room = events.0.capacity();
        events.0.clear();
        // SAFETY: the kernel writes at most `room` entries into memory that the vector owns.
        let count = unsafe {
            libc::epoll_wait(
                self.fd.raw(),
                events.0.as_mut_ptr(),
                room as libc::c_int,
                timeout_ms,
            )
        };
        if let Ok(count) = checked(count as isize) {
            // SAFETY: the kernel has written `count` of them, no more than there is room for.
            unsafe { events.0.set_len(count) };
        }
    }
}

/// Buffer of an epoll set.
pub struct Events(Vec<libc::epoll_event>);

impl Events {
    pub fn new(room: usize) -> Self {
        Events(Vec::with_capacity(room))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, index: usize) -> Option<Event> {
        let event = *self.0.get(index)?;
        let has = |bits: i32| event.events & bits as u32 != 0;
        Some(Event {
            token: event.u64,
            readable: has(libc::EPOLLIN),
            hung_up: has(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR),
            error: has(libc::EPOLLERR),
            urgent: has(libc::EPOLLPRI),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A socket that has a port, and the address of that.
    fn bound(host: &str) -> (OwnFd, Address) {
        let port = TcpListener::bind((host, 0)).and_then(|listener| listener.local_addr());
        let address = Address::Tcp(port.expect("a loopback address"));
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: takes no pointer.
        let socket = OwnFd(unsafe { libc::socket(address.family(), kind, 0) });
        let (raw, size) = address.encode().expect("an address");
        // SAFETY: `raw` is valid for `size` bytes and outlives the call.
        let result = unsafe {
            libc::bind(
                socket.raw(),
                std::ptr::from_ref(&raw).cast(),
                size as libc::socklen_t,
            )
        };
        assert_eq!(checked(result as isize), Ok(0));
        (socket, address)
    }

    #[test]
    fn a_socket_that_reaches_itself_is_refused() {
        for host in ["127.0.0.1", "::1"] {
            let (socket, address) = bound(host);
            assert_eq!(connect_socket(&socket, &address), Err(libc::ECONNREFUSED));
        }
    }
    extern "C" fn nothing(_signal: libc::c_int) {}

    #[test]
    fn randomness_is_whole_whatever_signals_come() {
        let action = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the handler does nothing.
        unsafe { libc::signal(libc::SIGUSR2, action) };
        let done = AtomicBool::new(false);
        // SAFETY: takes no pointer.
        let reader = unsafe { libc::pthread_self() };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    // SAFETY: the thread waits for this one before it ends.
                    unsafe { libc::pthread_kill(reader, libc::SIGUSR2) };
                }
            });
            let mut buffer = vec![0; 1 << 20];
            let whole = (0..20).all(|_| random(&mut buffer));
            done.store(true, Ordering::Release);
            assert!(whole);
        });
    }
}
