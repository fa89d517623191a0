//! The native engine of wsbridge: moves the bytes of pairs for which no rule is needed, on threads without the GIL.
//!
//! Reading order: `lane` (threads and pairs), `pair` (two sides and their ending), `bridge` (pairs that begin here),
//! `side`, `transfer` (bytes from one to the other), `buffers`, `frame` (WebSocket frames), `http_guard` (what looks like
//! HTTP is for Python), `wire` (a connection's bytes, plain or TLS), `tls` with `client_hello`, `certificate`, `tls_config` and `tls_fault`, `sys` (system calls, and all that
//! is unsafe); `python` and `tls_python` are what Python sees, `log_members` writes what is plain in its log lines. Python
//! holds every rule: where these files hold none, a pair goes back with its whole state.

#![deny(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks)]

pub mod bridge;
pub mod buffers;
pub mod certificate;
pub mod client_hello;
pub mod frame;
pub mod http_guard;
pub mod lane;
pub mod pair;
pub mod side;
#[expect(unsafe_code, reason = "system calls")]
pub mod sys;
pub mod tls;
pub mod tls_config;
pub mod tls_fault;
pub mod transfer;
pub mod wire;

#[cfg(feature = "extension-module")]
mod log_members;
#[cfg(feature = "extension-module")]
mod python;
#[cfg(feature = "extension-module")]
mod tls_python;
