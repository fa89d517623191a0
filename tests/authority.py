"""A certificate authority of the tests' own, and one certificate for this machine, made once a run."""

from __future__ import annotations

import atexit
import functools
import shutil
import ssl
import tempfile
from pathlib import Path

import trustme


@functools.cache
def folder() -> Path:
    """Give the directory with `ca.pem`, `cert.pem` and `key.pem` (for localhost and 127.0.0.1)."""
    path = Path(tempfile.mkdtemp(prefix="wsbridge-test-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    issued = authority.issue_cert("localhost", "127.0.0.1", "gw.example.org", key_type=trustme.KeyType.ECDSA)
    authority.cert_pem.write_to_path(str(path / "ca.pem"))
    issued.cert_chain_pems[0].write_to_path(str(path / "cert.pem"))
    issued.private_key_pem.write_to_path(str(path / "key.pem"))
    (path / "key.pem").chmod(0o600)
    return path


def listener_tls() -> dict[str, object]:
    """Give the section `tls:` of a listener."""
    return {"certificates": [{"cert": str(folder() / "cert.pem"), "key": str(folder() / "key.pem")}]}


@functools.cache
def server_context() -> ssl.SSLContext:
    """Give what a backend of a test serves TLS with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder() / "cert.pem", folder() / "key.pem")
    return context


@functools.cache
def client_context() -> ssl.SSLContext:
    """Give what a client of a test connects with."""
    return ssl.create_default_context(cafile=str(folder() / "ca.pem"))


def threaded_client_context() -> ssl.SSLContext:
    """Give the same for clients that read in another thread than they write, as the synchronous ones of websockets.

    One thread may read session tickets of TLS 1.3 while the other writes the request, which OpenSSL does not support:
    in hundreds of connections one request gets lost.
    """
    context = ssl.create_default_context(cafile=str(folder() / "ca.pem"))  # that of `client_context` is others', too
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context
