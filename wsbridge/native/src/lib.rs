//! The native engine of wsbridge: moves the bytes of pairs for which no rule is needed, on threads without the GIL.
//!
//! Reading order: `lane` (threads and pairs), `pair` (two sides), `frame` (WebSocket frames), `wire` (a connection's
//! bytes, plain or TLS), `tls`, `sys` (system calls); `python` is what Python sees. Python holds every rule: where these
//! files hold none, a pair goes back with its whole state.

pub mod frame;
pub mod lane;
pub mod pair;
pub mod sys;
pub mod wire;

#[cfg(feature = "extension-module")]
mod python;
