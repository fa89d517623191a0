//! TLS as Python sees it: `ServerTls` and `ClientTls` are configurations, a `TlsStream` holds one connection.

use crate::sys::Errno;
use crate::tls::{Scratch, ServerConfigs, TlsConn};
use crate::tls_config::{client_config, server_configs, Judge, KeyPair, ServerOptions};
use crate::tls_fault::certificate_error;
use crate::wire::Got;
use pyo3::buffer::{PyBuffer, ReadOnlyCell};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, OtherError};
use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

const HANDSHAKE_DONE: i32 = 0;
const WAIT_READABLE: i32 = 1;
const WAIT_WRITABLE: i32 = 2;
const FAILED: i32 = -1;

const READABLE: i32 = 1;
const READ_END: i32 = 2;
const READ_FAILED: i32 = 4;

/// Payload that one read gives at most.
const OUT_BYTES: usize = 128 * 1024;

struct Buffers {
    scratch: Scratch,
    out: Vec<u8>,
}

thread_local! {
    /// Taken while in use: what the judge runs could come to another connection.
    static BUFFERS: RefCell<Option<Box<Buffers>>> = const { RefCell::new(None) };
    /// What the judge of this thread said last.
    static VERDICT: RefCell<Option<Py<PyAny>>> = const { RefCell::new(None) };
}

fn with_buffers<T>(act: impl FnOnce(&mut Buffers) -> T) -> T {
    let mut buffers = BUFFERS
        .with(|kept| kept.borrow_mut().take())
        .unwrap_or_else(|| {
            Box::new(Buffers {
                scratch: Scratch::new(),
                out: vec![0; OUT_BYTES],
            })
        });
    let result = act(&mut buffers);
    BUFFERS.with(|kept| *kept.borrow_mut() = Some(buffers));
    result
}

/// Copies what parts are left into the room; gives how much that was.
fn fill<'a>(
    room: &mut [u8],
    part: &mut &'a [ReadOnlyCell<u8>],
    parts: &mut impl Iterator<Item = &'a [ReadOnlyCell<u8>]>,
) -> usize {
    let mut filled = 0;
    while let Some(rest) = room.get_mut(filled..).filter(|it| !it.is_empty()) {
        if part.is_empty() {
            match parts.next() {
                Some(next) => *part = next,
                None => break,
            }
        }
        let (now, later) = part.split_at(part.len().min(rest.len()));
        for (to, from) in rest.iter_mut().zip(now) {
            *to = from.get();
        }
        filled += now.len();
        *part = later;
    }
    filled
}

fn system_error(errno: Errno) -> PyErr {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let text = text
        .split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned();
    PyOSError::new_err((errno, text))
}

fn config_error(error: rustls::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// A function of Python: `(chain, name)`, giving None, or the exception that says why not.
struct PythonJudge(Py<PyAny>);

impl Judge for PythonJudge {
    fn judge(&self, chain: &[&[u8]], name: &str) -> Result<(), CertificateError> {
        Python::attach(|py| {
            let verdict = self.ask(py, chain, name).unwrap_or_else(|error| {
                Some(error.into_value(py).into_any()) // a judge that fails accepts nobody
            });
            let Some(verdict) = verdict else {
                return Ok(());
            };
            let code = verdict
                .getattr(py, "verify_code")
                .and_then(|code| code.extract::<u32>(py));
            VERDICT.with(|kept| *kept.borrow_mut() = Some(verdict));
            Err(match code {
                Ok(code) => certificate_error(code),
                Err(_) => CertificateError::Other(OtherError(Arc::new(std::fmt::Error))),
            })
        })
    }
}

impl PythonJudge {
    fn ask(&self, py: Python<'_>, chain: &[&[u8]], name: &str) -> PyResult<Option<Py<PyAny>>> {
        let chain = PyList::new(py, chain.iter().map(|der| PyBytes::new(py, der)))?;
        self.0.call1(py, (chain, name))?.extract(py)
    }
}

fn judge(given: Option<Py<PyAny>>) -> Option<Arc<dyn Judge>> {
    given.map(|function| Arc::new(PythonJudge(function)) as Arc<dyn Judge>)
}

/// Chain and key, DER.
type GivenPair = (Vec<Vec<u8>>, Vec<u8>);
/// The same, and the names that choose it.
type GivenCertificate = (Vec<Vec<u8>>, Vec<u8>, Vec<String>);

/// TLS of a listener.
#[pyclass(frozen, module = "wsbridge.native._native")]
pub struct ServerTls(Arc<ServerConfigs>);

#[pymethods]
impl ServerTls {
    /// `certificates`: chain and key, DER, and the names that choose them; the first is the default.
    #[new]
    fn new(
        certificates: Vec<GivenCertificate>,
        only_tls13: bool,
        client_certificate: Option<bool>,
        judge_clients: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let certificates = certificates
            .into_iter()
            .map(|(chain, key, names)| (KeyPair { chain, key }, names))
            .collect();
        let options = ServerOptions {
            only_tls13,
            client_certificate,
            judge: judge(judge_clients),
        };
        let configs = server_configs(certificates, &options).map_err(config_error)?;
        Ok(ServerTls(Arc::new(configs)))
    }
}

/// TLS of what is dialed.
#[pyclass(frozen, module = "wsbridge.native._native")]
pub struct ClientTls(Arc<ClientConfig>);

#[pymethods]
impl ClientTls {
    #[new]
    fn new(
        judge_servers: Option<Py<PyAny>>,
        certificate: Option<GivenPair>,
        alpn: Vec<Vec<u8>>,
    ) -> PyResult<Self> {
        let certificate = certificate.map(|(chain, key)| KeyPair { chain, key });
        let config =
            client_config(judge(judge_servers), certificate, alpn).map_err(config_error)?;
        Ok(ClientTls(Arc::new(config)))
    }
}

/// A TLS connection on a descriptor that belongs to Python. While a thread of the engine has it, it is empty.
#[pyclass(module = "wsbridge.native._native")]
pub struct TlsStream {
    connection: Option<Box<TlsConn>>,
    verdict: Option<Py<PyAny>>,
}

impl TlsStream {
    /// Takes the connection out, for a thread of the engine.
    pub fn take(&mut self) -> Option<Box<TlsConn>> {
        self.connection.take()
    }

    /// Gives it back.
    pub fn put(&mut self, connection: Box<TlsConn>) {
        self.connection = Some(connection);
    }

    /// One that a thread of the engine gives back.
    pub fn of(connection: Box<TlsConn>) -> Self {
        TlsStream {
            connection: Some(connection),
            verdict: None,
        }
    }

    fn connection(&self) -> PyResult<&TlsConn> {
        let found = self.connection.as_deref();
        found.ok_or_else(|| system_error(libc::EBADF))
    }

    /// Acts on the connection; after a panic it is gone.
    fn act<T>(&mut self, act: impl FnOnce(&mut TlsConn, &mut Buffers) -> T) -> PyResult<T> {
        let Some(connection) = self.connection.as_deref_mut() else {
            return Err(system_error(libc::EBADF));
        };
        let result =
            with_buffers(|buffers| catch_unwind(AssertUnwindSafe(|| act(connection, buffers))));
        result.map_err(|_| {
            self.connection = None;
            PyRuntimeError::new_err("TLS panicked")
        })
    }

    fn unsent(&mut self, result: Result<bool, Errno>) -> PyResult<usize> {
        result.map_err(system_error)?;
        Ok(self.connection()?.unsent_bytes())
    }
}

#[pymethods]
impl TlsStream {
    /// The server's end.
    #[staticmethod]
    fn server(fd: i32, tls: &ServerTls) -> Self {
        TlsStream {
            connection: Some(Box::new(TlsConn::server(fd, tls.0.clone()))),
            verdict: None,
        }
    }

    /// The client's end; `name` is that of the server.
    #[staticmethod]
    fn client(fd: i32, tls: &ClientTls, name: String) -> PyResult<Self> {
        let name = ServerName::try_from(name)
            .map_err(|_| PyValueError::new_err("the server's name is no DNS name"))?;
        let connection = TlsConn::client(fd, tls.0.clone(), name).map_err(config_error)?;
        Ok(TlsStream {
            connection: Some(Box::new(connection)),
            verdict: None,
        })
    }

    /// Goes on with the handshake: 0 complete, 1 wait until readable, 2 until writable, -1 failed (see `fault`).
    fn handshake(&mut self) -> PyResult<i32> {
        VERDICT.with(|kept| kept.borrow_mut().take());
        let result = self.act(|connection, buffers| connection.handshake(&mut buffers.scratch))?;
        let connection = self.connection()?;
        match result {
            Ok(true) => Ok(HANDSHAKE_DONE),
            Ok(false) if connection.unsent_bytes() > 0 => Ok(WAIT_WRITABLE),
            Ok(false) => Ok(WAIT_READABLE),
            Err(_) if connection.fault.is_some() => {
                self.verdict = VERDICT.with(|kept| kept.borrow_mut().take());
                Ok(FAILED)
            }
            Err(error) => Err(system_error(error)),
        }
    }

    /// Reads payload: what there is, and 1 if more may come at once, 2 at the end, 4 if it failed (see `fault`).
    fn read<'py>(
        &mut self,
        py: Python<'py>,
        until_empty: bool,
    ) -> PyResult<(Bound<'py, PyBytes>, i32)> {
        self.act(|connection, buffers| {
            connection.readable = true;
            connection.read_until_empty = until_empty;
            let got = connection.recv(&mut buffers.out, &mut buffers.scratch);
            let state = if connection.readable { READABLE } else { 0 };
            match got {
                Ok(Got::Bytes(count)) => Ok((PyBytes::new(py, &buffers.out[..count]), state)),
                Ok(Got::Nothing) => Ok((PyBytes::new(py, b""), state)),
                Ok(Got::End) => Ok((PyBytes::new(py, b""), READ_END)),
                Err(_) if connection.fault.is_some() => Ok((PyBytes::new(py, b""), READ_FAILED)),
                Err(error) => Err(system_error(error)),
            }
        })?
    }

    /// Encrypts buffers and hands them to the kernel; gives how many bytes of ciphertext that did not accept.
    fn write(&mut self, py: Python<'_>, parts: Vec<Bound<'_, PyAny>>) -> PyResult<usize> {
        let result = match &parts[..] {
            [one] if one.is_instance_of::<PyBytes>() => {
                let data: &[u8] = one.extract()?;
                self.act(|connection, buffers| connection.send(data, &mut buffers.scratch))?
            }
            _ => {
                let buffers = parts
                    .iter()
                    .map(PyBuffer::<u8>::get)
                    .collect::<PyResult<Vec<_>>>()?;
                let parts = buffers
                    .iter()
                    .map(|it| it.as_slice(py))
                    .collect::<Option<Vec<_>>>();
                let Some(parts) = parts else {
                    return Err(PyValueError::new_err("a buffer that is not contiguous"));
                };
                let mut parts = parts.into_iter();
                let mut part: &[ReadOnlyCell<u8>] = &[];
                self.act(|connection, buffers| {
                    connection.send_from(&mut buffers.scratch, |room| {
                        fill(room, &mut part, &mut parts)
                    })
                })?
            }
        };
        self.unsent(result)
    }

    /// Hands the kernel what is encrypted; gives how many bytes it did not accept.
    fn flush(&mut self) -> PyResult<usize> {
        let result = self.act(|connection, _| connection.flush())?;
        self.unsent(result)
    }

    /// Sends close_notify, once; gives how many bytes the kernel did not accept.
    fn close_notify(&mut self) -> PyResult<usize> {
        let result =
            self.act(|connection, buffers| connection.close_notify(&mut buffers.scratch))?;
        self.unsent(result)
    }

    /// Forgets the connection, before its descriptor is closed: the number may be another's then.
    fn close(&mut self) {
        self.connection = None;
    }

    /// Whether there is input that no event will report.
    fn has_buffered(&self) -> bool {
        self.connection.as_ref().is_some_and(|it| it.has_buffered())
    }

    /// Bytes that the kernel has accepted.
    #[getter]
    fn sent_bytes(&self) -> u64 {
        self.connection.as_ref().map_or(0, |it| it.sent_bytes)
    }

    /// All that a client has sent, for OpenSSL, where the fault is `name`.
    #[getter]
    fn unprocessed<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, self.connection()?.unprocessed()))
    }

    /// Why TLS failed: kind (`truncated`, `flood`, `unread`, `name`, `tls`), OpenSSL's name of the reason, a sentence.
    #[getter]
    fn fault(&self) -> PyResult<Option<(&'static str, &'static str, String)>> {
        let fault = self.connection()?.fault.as_ref();
        Ok(fault.map(|it| (it.kind.name(), it.reason, it.text.clone())))
    }

    /// Takes the exception with which the judge rejected the peer's certificate. Once raised, it refers to what refers to
    /// this stream: the garbage collector, which does not see into the stream, could never free that circle.
    fn take_verdict(&mut self) -> Option<Py<PyAny>> {
        self.verdict.take()
    }

    #[getter]
    fn version(&self) -> PyResult<&'static str> {
        Ok(self.connection()?.version())
    }

    #[getter]
    fn cipher(&self) -> PyResult<String> {
        Ok(self.connection()?.cipher())
    }

    #[getter]
    fn alpn(&self) -> PyResult<String> {
        let alpn = self.connection()?.alpn().unwrap_or_default();
        Ok(String::from_utf8_lossy(alpn).into_owned())
    }

    /// The name that a client asked for, as it came.
    #[getter]
    fn server_name(&self) -> PyResult<String> {
        Ok(self.connection()?.server_name.to_string())
    }

    /// The certificates that the peer sent, DER, its own first.
    fn peer_certificates<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let certificates = self.connection()?.peer_certificates();
        Ok(certificates
            .iter()
            .map(|der| PyBytes::new(py, der))
            .collect())
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ServerTls>()?;
    module.add_class::<ClientTls>()?;
    module.add_class::<TlsStream>()
}
