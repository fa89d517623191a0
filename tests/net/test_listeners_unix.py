"""Unix listeners: mode and owner, stale and live files, what is left at the end."""

import errno
import os
import pwd
import socket
import stat
import threading
from functools import partial

import pytest
import trio

from wsbridge.config.listener import ListenerConfig
from wsbridge.net import listeners
from wsbridge.net.listeners import ListenError


async def opened(path, **keys):
    """Open a listener that is closed by the test."""
    return await listeners.listen_unix("local", ListenerConfig(bind=f"unix:{path}", **keys))


def reaches(path):
    """Return whether a connection to the path is accepted."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


@pytest.fixture
def path(tmp_path):
    """Where the socket is to be."""
    return tmp_path / "gw.sock"


@pytest.mark.parametrize("mode", [0o660, 0o600, 0o666])
async def test_listens_with_its_mode(path, mode):
    """Whatever the umask, the file has the mode that is written."""
    before = os.umask(0o077)
    try:
        listening = await opened(path, mode=mode)
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert listening.addresses == [f"unix:{path}"]
    assert listening.sockets[0].getblocking() is False
    assert reaches(path)
    listening.close()
    assert not path.exists()
    listening.close()


async def test_nobody_can_connect_before_the_mode_is_set(path, monkeypatch):
    """While mode and owner are being set the socket does not listen yet."""
    seen = []

    def chown(where, *_):
        seen.append((reaches(where), stat.S_IMODE(path.stat().st_mode)))

    monkeypatch.setattr(listeners.os, "chown", chown)
    listening = await opened(path, mode=0o600, owner=pwd.getpwuid(os.getuid()).pw_name)
    listening.close()

    assert seen == [(False, 0o600)]


@pytest.mark.parametrize("owner", ["{user}", "{user}:{gid}", "{uid}:{gid}"])
async def test_owner(path, owner):
    """User and group by name or by number."""
    me = pwd.getpwuid(os.getuid())
    listening = await opened(path, owner=owner.format(user=me.pw_name, uid=me.pw_uid, gid=os.getgid()))
    assert (path.stat().st_uid, path.stat().st_gid) == (me.pw_uid, os.getgid())
    listening.close()


@pytest.mark.parametrize(
    ("owner", "text"), [("no-such-user", 'there is no user "no-such-user"'), ("0:no-such-group", "there is no group")]
)
async def test_unknown_owner(path, owner, text):
    """The error is reported before anything is created."""
    with pytest.raises(ListenError, match=text):
        await opened(path, owner=owner)
    assert not path.exists()


async def test_owner_that_may_not_be_set(path, monkeypatch):
    """The file goes again."""

    def denied(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(listeners.os, "chown", denied)
    with pytest.raises(ListenError, match="cannot chown to 0"):
        await opened(path, owner="0")
    assert not path.exists()


async def test_a_listener_that_is_not_awaited_any_more_is_closed(path, monkeypatch):
    """A shutdown does not wait for a thread that opens it; what that has opened is closed in the end."""
    go, reached = threading.Event(), threading.Event()

    def look_up(_):
        reached.set()
        go.wait(20)
        return root

    root, threads = pwd.getpwnam("root"), trio.to_thread.current_default_thread_limiter()
    monkeypatch.setattr(pwd, "getpwnam", look_up)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(opened, path, owner="root"))
        await trio.to_thread.run_sync(reached.wait)
        nursery.cancel_scope.cancel()
    assert threads.borrowed_tokens == 1
    go.set()
    with trio.fail_after(9):
        while threads.borrowed_tokens:
            await trio.sleep(0.01)
    assert not path.exists()


async def test_a_stale_file_is_replaced(path):
    """What a killed process left behind does not stop the next one."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()

    listening = await opened(path)
    assert reaches(path)
    listening.close()


async def test_a_live_socket_is_an_error(path):
    """And stays as it is."""
    first = await opened(path)
    with pytest.raises(ListenError) as caught:
        await opened(path)

    assert str(caught.value) == f'listener "local": cannot listen on unix:{path}: address already in use'
    assert reaches(path)
    first.close()


async def test_a_live_socket_with_a_full_backlog_is_an_error(path):
    """A busy server is not a dead one."""
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        clients = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(3)]
        for client in clients:
            client.connect_ex(str(path))
        with pytest.raises(ListenError, match="address already in use"):
            await opened(path)
        for client in clients:
            client.close()
    assert path.exists()


async def test_a_live_datagram_socket_is_an_error(path):
    """Also one of another type."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(ListenError, match="address already in use"):
            await opened(path)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
async def test_what_is_no_socket_is_never_removed(path, tmp_path, kind):
    """Not even a link that leads to nothing."""
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ListenError, match="the file exists and is no socket"):
        await opened(path)
    assert path.lstat()


async def test_missing_directory(tmp_path):
    """The message names the directory."""
    with pytest.raises(ListenError, match=f"the directory {tmp_path / 'x'} does not exist"):
        await opened(tmp_path / "x" / "gw.sock")


async def test_anothers_file_is_left_alone_at_the_end(path):
    """Closing removes the file only if it is still ours."""
    first = await opened(path)
    path.unlink()
    second = await opened(path)
    first.close()

    assert reaches(path)
    second.close()
    assert not path.exists()


async def test_released_sockets_stay_with_the_other_process(path):
    """A copy of the socket goes on listening, and its file stays."""
    first = await opened(path)
    with first.sockets[0].dup() as copy:
        first.release()
        first.close()

        assert path.exists()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            accepted, _ = copy.accept()
            accepted.close()


async def test_without_a_thread_it_is_not_opened(path, monkeypatch):
    """As at the limit of tasks of the unit; a later attempt may succeed."""

    async def fail(*_, **_options):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", fail)
        with pytest.raises(ListenError) as caught:
            await opened(path)
    assert caught.value.errno == errno.EAGAIN
    text = (
        f'listener "local": cannot listen on unix:{path}: can\'t start new thread (raise TasksMax= of a systemd unit)'
    )
    assert str(caught.value) == text
    assert not path.exists()
