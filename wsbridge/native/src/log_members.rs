//! The values of a log line as members of a JSON object, as `log.format` writes them.
//!
//! Only what is plain is written here: numbers, short text in which nothing is escaped and nothing can be a secret, and
//! text of which Python has written the member before. Python writes everything else, and says what a key is.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyString};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

/// Keys that are remembered, and values of each.
const MAX_KEYS: usize = 1024;
const MAX_VALUES: usize = 256;
/// Bytes of text that is looked at here.
const MAX_TEXT_BYTES: usize = 100;

/// What is known of a key.
struct Key {
    /// What its members begin with.
    start: String,
    /// Whether Python hides none of its values as a whole.
    is_shown: bool,
    /// Of a key with few values: their members, as Python wrote them.
    members: Option<HashMap<String, String>>,
}

/// What Python says of a key; see `MemberWriter`.
type Described = (String, bool, bool);

/// Whether text is written as it is: words, a path, an address. No escapes, no parameters, and no dots among letters.
fn is_plain(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b" _-/:,".contains(&byte);
    let is_address = |byte: u8| byte.is_ascii_digit() || b"abcdef.:[]".contains(&byte);
    text.len() <= MAX_TEXT_BYTES && (text.bytes().all(is_word) || text.bytes().all(is_address))
}

/// Text of a finite float, `None` for anything else. Not to be called with a lock: `repr` runs signal handlers and the
/// garbage collector first.
fn float_text<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyString>>> {
    match value.downcast_exact::<PyFloat>() {
        Ok(number) if number.value().is_finite() => number.repr().map(Some),
        _ => Ok(None),
    }
}

/// Writes a member here; false: it is Python's to write. `float` is the value as `float_text` has it.
fn write_here(
    key: &Key,
    value: &Bound<'_, PyAny>,
    float: Option<&Bound<'_, PyString>>,
    line: &mut String,
) -> PyResult<bool> {
    if !key.is_shown {
        return Ok(false);
    }
    if let Ok(text) = value.downcast_exact::<PyString>() {
        let Ok(text) = text.to_str() else {
            return Ok(false);
        };
        if let Some(members) = &key.members {
            let Some(member) = members.get(text) else {
                return Ok(false);
            };
            line.push_str(member);
            return Ok(true);
        }
        if is_plain(text) {
            let _ = write!(line, "{}\"{text}\"", key.start); // a string takes it always
            return Ok(true);
        }
    } else if let Ok(number) = value.downcast_exact::<PyInt>() {
        if let Ok(number) = number.extract::<i64>() {
            let _ = write!(line, "{}{number}", key.start);
            return Ok(true);
        }
    } else if let Some(text) = float {
        line.push_str(&key.start);
        line.push_str(text.to_str()?);
        return Ok(true);
    }
    Ok(false)
}

/// Writes members, with the help of two functions of Python.
///
/// `describe(key)` returns what its members begin with, whether its values are shown, and whether they are few.
/// `write(key, value)` returns a whole member.
#[pyclass(frozen)]
pub struct MemberWriter {
    describe: Py<PyAny>,
    write: Py<PyAny>,
    /// Not held while Python runs: another thread, or a signal handler, may log then.
    keys: Mutex<HashMap<String, Key>>,
}

impl MemberWriter {
    /// Writes a member by Python, and remembers what it said.
    fn write_there(
        &self,
        py: Python<'_>,
        name: &str,
        value: &Bound<'_, PyAny>,
        line: &mut String,
    ) -> PyResult<()> {
        let described = self.describe.call1(py, (name,))?;
        let (start, is_shown, is_repeated): Described = described.extract(py)?;
        let written = self.write.call1(py, (name, value))?;
        let member: &str = written.extract(py)?;
        line.push_str(member);
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= MAX_KEYS {
            keys.clear();
        }
        let key = keys.entry(name.to_owned()).or_insert_with(|| Key {
            start,
            is_shown,
            members: is_repeated.then(HashMap::new),
        });
        if let (Some(members), Ok(text)) = (&mut key.members, value.downcast_exact::<PyString>()) {
            if let Some(text) = text
                .to_str()
                .ok()
                .filter(|text| text.len() <= MAX_TEXT_BYTES)
            {
                if members.len() >= MAX_VALUES {
                    members.clear();
                }
                members.insert(text.to_owned(), member.to_owned());
            }
        }
        Ok(())
    }
}

#[pymethods]
impl MemberWriter {
    #[new]
    fn new(describe: Py<PyAny>, write: Py<PyAny>) -> Self {
        MemberWriter {
            describe,
            write,
            keys: Mutex::new(HashMap::new()),
        }
    }

    /// Returns the values as members, each after a comma.
    fn members(&self, py: Python<'_>, fields: &Bound<'_, PyDict>) -> PyResult<String> {
        let fields: Vec<_> = fields.iter().collect(); // what Python calls may change them
        let mut line = String::with_capacity(512);
        for (name, value) in &fields {
            let name = name.downcast::<PyString>()?.to_str()?;
            let float = float_text(value)?;
            let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            let is_written = match keys.get(name) {
                Some(key) => write_here(key, value, float.as_ref(), &mut line)?,
                None => false,
            };
            drop(keys);
            if !is_written {
                self.write_there(py, name, value, &mut line)?;
            }
        }
        Ok(line)
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<MemberWriter>()
}
