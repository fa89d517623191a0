"""Detecting addresses that lead back to this process."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from wsbridge.net.address import Address, ListeningAddresses


def at(host: str, port: int) -> Address:
    """Give an address."""
    return Address(socket.AF_INET6, (host, port, 0, 0)) if ":" in host else Address(socket.AF_INET, (host, port))


def listening(host: str, *, dual: bool = False) -> tuple[ListeningAddresses, int]:
    """Listen, and give what is known of it and the port."""
    own = ListeningAddresses()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
        sock.bind((host, 0))
        own.add(sock)
        return own, sock.getsockname()[1]


@pytest.mark.parametrize(
    ("bind", "dual", "held", "free"),
    [
        ("127.0.0.1", False, ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "::"], ["127.0.0.2", "::1", "192.0.2.1"]),
        ("0.0.0.0", False, ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::ffff:127.0.0.1"], ["::1", "192.0.2.1"]),
        ("::", True, ["127.0.0.1", "::1", "::", "0.0.0.0"], ["192.0.2.1", "2001:db8::1"]),
        ("::", False, ["::1"], ["127.0.0.1", "2001:db8::1"]),
        ("::1", False, ["::1"], ["127.0.0.1"]),
    ],
)
def test_tcp(bind: str, dual: bool, held: list[str], free: list[str]) -> None:
    """By the very address, by any of this host where all are bound, and by the unspecified one."""
    own, port = listening(bind, dual=dual)

    assert [host for host in held if not own.contains(at(host, port))] == []
    assert [host for host in free if own.contains(at(host, port))] == []
    assert not own.contains(at("127.0.0.1", port - 1))


def test_a_zone_changes_nothing() -> None:
    """An address with a zone is the same one."""
    own, port = listening("::1")
    assert own.contains(Address(socket.AF_INET6, ("::1%lo", port, 0, 1)))


def test_unix(tmp_path: Path) -> None:
    """By its path, by a link, by another name of the same file; another socket is none of ours."""
    own = ListeningAddresses()
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as other:
        sock.bind(str(tmp_path / "gw"))
        other.bind(str(tmp_path / "other"))
        own.add(sock)
        (tmp_path / "link").symlink_to(tmp_path / "gw")
        (tmp_path / "twin").hardlink_to(tmp_path / "gw")
        for name in ("gw", "link", "twin"):
            assert own.contains_path(str(tmp_path / name))
        assert not own.contains_path(str(tmp_path / "other"))
        assert not own.contains_path(str(tmp_path / "gone"))
    (tmp_path / "gw").unlink()
    assert own.contains_path(str(tmp_path / "gw"))
