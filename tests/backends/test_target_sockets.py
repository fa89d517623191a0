"""Resolving the path of a Unix socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsbridge.backends.target_policy import resolve_socket_path


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Path]:
    """A directory of sockets that may be chosen, `vnc`, beside one that may not."""
    (tmp_path / "vnc" / "inner").mkdir(parents=True)
    (tmp_path / "vnc2").mkdir()
    opened = []
    for name in ("vnc/a", "vnc/inner/b", "vnc2/c", "docker.sock"):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(tmp_path / name))
        opened.append(sock)
    yield tmp_path
    for sock in opened:
        sock.close()


def look(places: Path, path: str, *, must_be: bool = True, own: str = "") -> str:
    """Judge a path below the places by the directory `vnc`."""
    found = resolve_socket_path(
        f"{places}/{path}", [places / "vnc"], lambda real: real.endswith(own or "\0"), must_exist=must_be
    )
    return str(Path(found).relative_to(os.path.realpath(places)))


@pytest.mark.parametrize("path", ["vnc/a", "vnc/inner/b"])
def test_sockets_of_the_directory(places: Path, path: str) -> None:
    """And of directories inside."""
    assert look(places, path) == path


@pytest.mark.parametrize("path", ["vnc2/c", "docker.sock", "vnc", "vnc/../docker.sock", "vnc/inner/../../vnc2/c"])
def test_sockets_elsewhere(places: Path, path: str) -> None:
    """A directory whose name begins alike is another one."""
    with pytest.raises(ValueError, match=r"none of the directories of allowed_targets.unix"):
        look(places, path)


def test_links_out_are_refused(places: Path) -> None:
    """To a socket, and by a directory on the way."""
    (places / "vnc" / "out").symlink_to(places / "docker.sock")
    (places / "vnc" / "away").symlink_to(places / "vnc2")
    for path in ("vnc/out", "vnc/away/c"):
        with pytest.raises(ValueError, match=r"none of the directories of allowed_targets.unix"):
            look(places, path)


def test_links_inside_are_followed(places: Path) -> None:
    """What is dialled is where they lead."""
    (places / "vnc" / "link").symlink_to(places / "vnc" / "inner" / "b")
    (places / "door").symlink_to(places / "vnc")
    assert look(places, "vnc/link") == "vnc/inner/b"
    assert look(places, "door/a") == "vnc/a"


def test_a_directory_may_be_a_link_itself(places: Path) -> None:
    """The one that is written is followed, too."""
    (places / "run").symlink_to(places / "vnc")
    assert resolve_socket_path(f"{places}/vnc/a", [places / "run"], lambda _: False, must_exist=True).endswith("/vnc/a")


def test_a_socket_that_is_not_there(places: Path) -> None:
    """Rejected where clients choose it, else left to the connect to fail; a dangling link is always rejected."""
    assert look(places, "vnc/gone", must_be=False) == "vnc/gone"
    (places / "vnc" / "dangling").symlink_to(places / "gone")
    for path, must_be in (("vnc/gone", True), ("vnc/dangling", False), ("vnc/none/x", False), ("gone/x", False)):
        with pytest.raises(ValueError, match="No such file"):
            look(places, path, must_be=must_be)
    with pytest.raises(ValueError, match="none of the directories"):
        look(places, "vnc2/gone", must_be=False)


def test_our_own_socket(places: Path) -> None:
    """It is refused by whatever path."""
    with pytest.raises(ValueError, match="wsbridge itself listens there"):
        look(places, "vnc/a", own="vnc/a")


def test_a_path_that_is_too_long_in_truth(places: Path) -> None:
    """A short link may lead to a path that no socket can have."""
    deep = places / "vnc" / ("x" * 100)
    deep.mkdir()
    (deep / "y").touch()
    (places / "vnc" / "s").symlink_to(deep / "y")
    with pytest.raises(ValueError, match="more than 107 bytes"):
        look(places, "vnc/s")
