//! System calls on descriptors that somebody else owns. Every `unsafe` of the crate is here, each with its reason.

use std::os::fd::RawFd;

/// The number of a system error, such as `ECONNRESET`.
pub type Errno = i32;

fn errno() -> Errno {
    // SAFETY: the C library gives each thread its own, always valid.
    unsafe { *libc::__errno_location() }
}

/// Turns -1 into the error; a call that a signal interrupted is for the caller to repeat.
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

/// Writes once; gives how many bytes the kernel accepted.
pub fn send(fd: RawFd, data: &[u8]) -> Result<usize, Errno> {
    loop {
        // SAFETY: pointer and length are those of a slice.
        match checked(unsafe {
            libc::send(fd, data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL)
        }) {
            Ok(count) => return Ok(count),
            Err(libc::EINTR) => {}
            Err(libc::EAGAIN) => return Ok(0),
            Err(error) => return Err(error),
        }
    }
}
