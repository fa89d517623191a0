//! The native engine of wsbridge: moves the bytes of pairs for which no rule is needed, on threads without the GIL.
//!
//! Reading order: `lane` (threads and pairs), `frame` (WebSocket frames), `wire` (a connection's bytes, plain or TLS),
//! `tls`, `sys` (system calls). Python holds every rule: where these files hold none, a pair goes back with its state.

pub mod sys;
pub mod wire;

#[cfg(feature = "extension-module")]
mod python {
    use pyo3::prelude::*;

    /// See wsbridge/native/__init__.py.
    #[pymodule]
    fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        Ok(())
    }
}
