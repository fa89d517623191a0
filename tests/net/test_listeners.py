"""Listeners: cleanup and error messages."""

import errno

import pytest

from wsbridge.net.listeners import ListenError, listen_error_text


@pytest.mark.parametrize(
    ("code", "port", "text"),
    [
        (errno.EADDRINUSE, 80, "address already in use"),
        (errno.EACCES, 8080, "permission denied"),
        (errno.EMFILE, 0, "too many open files (raise LimitNOFILE)"),
        (errno.EAFNOSUPPORT, 0, "this machine has no such kind of address (is IPv6 off?)"),
    ],
)
def test_words(code, port, text):
    """The system's words, or better ones."""
    assert listen_error_text(OSError(code, "x"), port) == text


def test_an_error_is_one_sentence():
    """With listener and address in it."""
    error = ListenError("public", "127.0.0.1:80", "because", errno.EACCES)
    assert str(error) == 'listener "public": cannot listen on 127.0.0.1:80: because'
    assert error.errno == errno.EACCES
