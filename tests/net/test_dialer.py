"""Dialling: one address, several, failures and what they are called, cancellation."""

import contextlib
import errno
import os
import resource
import socket
import threading
import types

import pytest
import trio
import trio.testing

from tests.rejections import async_outcome
from wsbridge.net import dialer as module
from wsbridge.net.address import Address
from wsbridge.net.dialer import dial, dial_unix, interleave_families
from wsbridge.net.resolver import Resolver
from wsbridge.reasons import Reason, Rejected


@pytest.fixture
def server():
    """A listening socket on 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def closed_port():
    """A port of 127.0.0.1 that is bound but not listened on: refused for certain."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextlib.contextmanager
def as_nobody(folder):
    """Be no root for a while, since no mode stops that."""
    if os.geteuid() != 0:
        yield
        return
    uid = 65534
    for path in (folder, *folder.parents):
        if path.stat().st_uid == 0 and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    for path in (folder, *folder.iterdir()):
        os.chown(path, uid, uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def answering(*hosts):
    """A resolver whose every name has these addresses."""
    rows = [
        (socket.AF_INET6, 1, 6, "", (host, 0, 0, 0)) if ":" in host else (socket.AF_INET, 1, 6, "", (host, 0))
        for host in hosts
    ]
    return Resolver(getaddrinfo=lambda *_, **__: rows)


async def test_one_address(server):
    """The socket is connected, non-blocking and not inherited."""
    port = server.getsockname()[1]
    sock = await dial(Resolver(), "127.0.0.1", port)

    assert isinstance(sock, socket.socket)
    with sock:
        assert sock.getpeername() == ("127.0.0.1", port)
        assert sock.getblocking() is False
        assert sock.get_inheritable() is False


async def test_refused(closed_port):
    """Nobody listens: refused, with address and the system's words."""
    outcome = await async_outcome(dial(Resolver(), "127.0.0.1", closed_port))

    assert (outcome.reason, outcome.detail) == (Reason.BACKEND_REFUSED, f"127.0.0.1:{closed_port}: Connection refused")
    assert outcome.termination().initiator == "backend"


async def test_unknown_name():
    """A name that cannot be looked up."""

    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with Resolver(getaddrinfo=fail) as resolver:
        outcome = await async_outcome(dial(resolver, "gw.invalid", 80))

    assert (outcome.reason, outcome.detail) == (Reason.BACKEND_DNS, "gw.invalid: Name or service not known")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ECONNREFUSED, Reason.BACKEND_REFUSED),
        (errno.EADDRNOTAVAIL, Reason.OVERLOAD),
        (errno.ENOBUFS, Reason.OVERLOAD),
        (errno.ETIMEDOUT, Reason.BACKEND_TIMEOUT),
        (errno.EHOSTUNREACH, Reason.BACKEND_UNREACHABLE),
        (errno.ENETUNREACH, Reason.BACKEND_UNREACHABLE),
        (errno.EACCES, Reason.BACKEND_DENIED),
        (errno.EPERM, Reason.BACKEND_DENIED),
    ],
)
async def test_errors_have_reasons(monkeypatch, code, reason):
    """Each errno of connect becomes one reason; the socket is closed."""
    made = []

    class Failing(socket.socket):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

        def connect_ex(self, _):
            return code

    monkeypatch.setattr(module.socket, "socket", Failing)
    outcome = await async_outcome(dial(Resolver(), "192.0.2.1", 80))

    assert outcome.reason is reason
    assert outcome.termination().initiator == ("wsbridge" if reason is Reason.OVERLOAD else "backend")
    assert [sock.fileno() for sock in made] == [-1]


async def test_a_host_without_ipv6_is_no_shortage(server, closed_port, monkeypatch):
    """There an IPv6 address fails as where no port is left; what the backend itself does counts all the same."""

    class WithoutIpv6(socket.socket):
        def connect_ex(self, sockaddr):
            return errno.EADDRNOTAVAIL if self.family == socket.AF_INET6 else super().connect_ex(sockaddr)

        def connect(self, sockaddr):
            if self.family == socket.AF_INET6:
                raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
            super().connect(sockaddr)

    monkeypatch.setattr(module.socket, "socket", WithoutIpv6)
    async with answering("::1", "127.0.0.1") as resolver:
        outcome = await async_outcome(dial(resolver, "gw", closed_port))
        alone = await async_outcome(dial(resolver, "::1", closed_port))

    assert (outcome.reason, outcome.termination().initiator) == (Reason.BACKEND_REFUSED, "backend")
    text = f"[::1]:{closed_port}: Cannot assign requested address: this host has no IPv6 address to connect from"
    assert text in outcome.detail
    assert (alone.reason, alone.detail) == (Reason.BACKEND_UNREACHABLE, text)


async def test_no_port_left_for_ipv6_is_overload(monkeypatch):
    """An address that this host can reach fails in the same way where it has no port left."""

    class WithoutPorts(socket.socket):
        def connect_ex(self, sockaddr):
            return errno.EADDRNOTAVAIL

    monkeypatch.setattr(module.socket, "socket", WithoutPorts)
    outcome = await async_outcome(dial(Resolver(), "::1", 80))
    assert outcome.reason is Reason.OVERLOAD


async def test_no_descriptor_left_is_overload(server):
    """EMFILE on the dial is this machine's trouble, not the backend's."""
    resolver = Resolver()
    port = server.getsockname()[1]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        outcome = await async_outcome(dial(resolver, "127.0.0.1", port))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert (outcome.reason, outcome.detail) == (Reason.OVERLOAD, f"127.0.0.1:{port}: Too many open files")


async def test_our_own_ephemeral_port_is_no_backend():
    """TCP's simultaneous open connects a socket to itself; that counts as refused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]

    class Own(socket.socket):
        def connect_ex(self, address):
            if self.getsockname()[1] == 0:
                self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self.bind(address)
            return super().connect_ex(address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.socket, "socket", Own)
        outcome = await async_outcome(dial(Resolver(), "127.0.0.1", port))

    assert isinstance(outcome, Rejected)
    assert outcome.reason is Reason.BACKEND_REFUSED


def test_families_take_turns():
    """In the order given otherwise, the family of the first address first."""
    six = [Address(socket.AF_INET6, (f"2001:db8::{n}", 1, 0, 0)) for n in range(3)]
    four = [Address(socket.AF_INET, (f"192.0.2.{n}", 1)) for n in range(2)]

    assert interleave_families([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]
    assert interleave_families([*four, *six]) == [four[0], six[0], four[1], six[1], six[2]]
    assert interleave_families([]) == []


async def test_a_refused_address_gives_way_at_once(server):
    """The next address is tried without waiting for the 250 ms."""
    port = server.getsockname()[1]
    with trio.fail_after(9):
        async with answering("127.0.0.9", "127.0.0.1") as resolver:
            sock = await dial(resolver, "gw", port)

    assert isinstance(sock, socket.socket)
    with sock:
        assert sock.getpeername()[0] == "127.0.0.1"


async def test_all_fail_and_all_are_reported(closed_port):
    """The failure has the words of every address and the gravest of the reasons."""
    async with answering("127.0.0.1", "127.0.0.2") as resolver:
        outcome = await async_outcome(dial(resolver, "gw", closed_port))

    assert outcome.reason is Reason.BACKEND_REFUSED
    assert outcome.detail == (
        f"gw:{closed_port}: 127.0.0.1:{closed_port}: Connection refused; 127.0.0.2:{closed_port}: Connection refused"
    )


class Attempts:
    """Replaces single attempts: hosts that hang until cancelled, connect after a time, or fail."""

    def __init__(self, plan):
        self.plan = plan
        self.started = []
        self.open = 0
        self.most = 0
        self.made = []

    async def __call__(self, family, sockaddr, chain):
        host = sockaddr[0]
        self.started.append((host, round(trio.current_time(), 3)))
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            what = self.plan[host]
            if what == "hang":
                await trio.sleep_forever()
            if isinstance(what, Reason):
                raise Rejected(what, host)
            await trio.sleep(what)
            sock = socket.socket()
            self.made.append((host, sock))
            return sock
        finally:
            self.open -= 1


async def race(monkeypatch, plan):
    """Dial by a plan; give the attempts and the outcome."""
    attempts = Attempts(plan)
    monkeypatch.setattr(module, "_connect", attempts)
    addresses = [Address(socket.AF_INET, (host, 1)) for host in plan]
    started = trio.current_time()
    outcome = await async_outcome(module._connect_any("gw", 1, addresses, module.DialProgress(), None))
    attempts.started = [(host, round(at - started, 3)) for host, at in attempts.started]
    return outcome, attempts


async def test_attempts_start_a_quarter_second_apart(monkeypatch, autojump_clock):
    """An address that hangs holds the next one up for 250 ms, no longer, and is given up when another connects."""
    outcome, attempts = await race(monkeypatch, {"a": "hang", "b": 0.1, "c": 0})

    assert attempts.started == [("a", 0), ("b", 0.25)]
    assert outcome is attempts.made[0][1]
    assert attempts.open == 0
    outcome.close()


async def test_addresses_that_swallow_packets_hold_up_no_other(monkeypatch, autojump_clock):
    """However many attempts are open, the next one starts after its delay."""
    outcome, attempts = await race(monkeypatch, {**dict.fromkeys("abcde", "hang"), "f": 0})

    assert attempts.started[-1] == ("f", 1.25)
    assert outcome is attempts.made[0][1]
    outcome.close()


async def test_retries_go_on_with_the_addresses_that_were_not_tried(monkeypatch, autojump_clock):
    """Also where the time of an attempt was too short for all, and the message says how many were left."""
    attempts = Attempts(dict.fromkeys([f"192.0.2.{number}" for number in range(12)], "hang"))
    monkeypatch.setattr(module, "_connect", attempts)
    progress = module.DialProgress()
    addresses = [Address(socket.AF_INET, (host, 1)) for host in attempts.plan]
    known = types.SimpleNamespace(cached=lambda *_: addresses, forget=lambda _: None)  # without threads: a mock clock
    end = await async_outcome(
        module.retry(lambda: dial(known, "gw", 1, None, progress), timeout=1.1, retry_for=2, progress=progress)
    )

    hosts = [host for host, _ in attempts.started]
    assert hosts[:10] == [f"192.0.2.{number}" for number in range(10)]
    assert end.reason is Reason.BACKEND_TIMEOUT
    assert end.detail.startswith("no connection within 1.1 s: ")
    assert "no answer to the connection attempt" in end.detail


async def test_a_name_whose_addresses_fail_is_looked_up_again(server, closed_port):
    """Where the backend has moved, the first retry finds it."""
    port = server.getsockname()[1]
    asked = []

    def getaddrinfo(host, *_, **__):
        asked.append(host)
        return [(socket.AF_INET, 1, 6, "", ("127.0.0.9" if len(asked) == 1 else "127.0.0.1", 0))]

    async with Resolver(getaddrinfo=getaddrinfo) as resolver:
        outcome = await async_outcome(dial(resolver, "gw", port))
        assert outcome.reason is Reason.BACKEND_REFUSED
        sock = await dial(resolver, "gw", port)
        assert sock.getpeername() == ("127.0.0.1", port)
        sock.close()
        (await dial(resolver, "gw", port)).close()
    assert len(asked) == 2


async def test_an_answer_is_there_for_all_who_waited_for_it(closed_port):
    """Although the first of them drops it, since its address refuses at once."""
    release = threading.Event()

    def look_up(*_, **__):
        assert release.wait(10)
        return [(socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))]

    outcomes = []

    async def attempt(resolver):
        outcomes.append(await async_outcome(dial(resolver, "gw", closed_port)))

    async with Resolver(getaddrinfo=look_up) as resolver, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(attempt, resolver)
        await trio.testing.wait_all_tasks_blocked()
        release.set()

    assert [outcome.reason for outcome in outcomes] == [Reason.BACKEND_REFUSED] * 3


async def test_a_second_winner_is_closed(monkeypatch, autojump_clock):
    """Of two that connect in the same moment one is kept."""
    outcome, attempts = await race(monkeypatch, {"a": 0.25 + 0.125, "b": 0.125})

    for _, sock in attempts.made:
        assert (sock.fileno() != -1) is (sock is outcome)
    outcome.close()


async def test_overload_outranks_the_rest(monkeypatch, autojump_clock):
    """Of several reasons the one that says most is kept."""
    plan = {"a": Reason.BACKEND_UNREACHABLE, "b": Reason.OVERLOAD, "c": Reason.BACKEND_REFUSED}
    outcome, _ = await race(monkeypatch, plan)

    assert (outcome.reason, outcome.detail) == (Reason.OVERLOAD, "gw:1: a; b; c")


async def test_at_most_eight_addresses(monkeypatch):
    """A name with a hundred addresses is not a scan."""
    attempts = Attempts({f"192.0.2.{n}": Reason.BACKEND_REFUSED for n in range(100)})
    monkeypatch.setattr(module, "_connect", attempts)
    async with answering(*attempts.plan) as resolver:
        outcome = await async_outcome(dial(resolver, "gw", 1))
        assert len(attempts.started) == 8
        assert outcome.detail.endswith("; 92 more addresses were not tried")


@pytest.mark.parametrize("hosts", [["192.0.2.1"], ["192.0.2.1", "192.0.2.2"]])
async def test_a_cancelled_dial_closes_its_sockets(monkeypatch, hosts):
    """A dial that its caller cancels while it connects leaves no socket open."""
    made = []
    connecting = trio.Event()

    class Hanging(socket.socket):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

        def connect_ex(self, _):
            return errno.EINPROGRESS

    monkeypatch.setattr(module.socket, "socket", Hanging)

    async def never_writable(_):
        connecting.set()
        await trio.sleep_forever()

    monkeypatch.setattr(trio.lowlevel, "wait_writable", never_writable)
    async with answering(*hosts) as resolver, trio.open_nursery() as nursery:
        nursery.start_soon(dial, resolver, "gw", 80)
        await connecting.wait()
        nursery.cancel_scope.cancel()

    assert [sock.fileno() for sock in made] == [-1] * len(made)
    assert made


async def test_unix(tmp_path):
    """A socket that is listened at is connected to; one that is not is refused, one that is missing unreachable."""
    path = str(tmp_path / "s")
    missing = await async_outcome(dial_unix(path))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(1)
        sock = await dial_unix(path)
        assert isinstance(sock, socket.socket)
        sock.close()
    dead = await async_outcome(dial_unix(path))
    left_behind = "no process listens on the socket; one that has ended may have left it behind"

    assert (missing.reason, missing.detail) == (
        Reason.BACKEND_UNREACHABLE,
        f"unix:{path}: No such file or directory: the service has not made its socket, or the path is another",
    )
    assert (dead.reason, dead.detail) == (
        Reason.BACKEND_REFUSED,
        f"unix:{path}: Connection refused: {left_behind}",
    )


async def test_unix_backlog_full_is_refused(tmp_path):
    """The kernel offers no waiting there."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(0)
        outcomes = [await async_outcome(dial_unix(path)) for _ in range(4)]

    failures = [outcome for outcome in outcomes if isinstance(outcome, Rejected)]
    for outcome in outcomes:
        if isinstance(outcome, socket.socket):
            outcome.close()
    assert failures
    assert {failure.reason for failure in failures} == {Reason.BACKEND_REFUSED}


async def test_addresses_that_may_not_be_dialled(server, closed_port):
    """They are left out before anything is dialled; with none left it is forbidden, and trying again is of no use."""
    port = server.getsockname()[1]
    judged = []

    def why_not(address):
        judged.append(str(address))
        return None if address.sockaddr[0] == "127.0.0.1" else f"{address}: no"

    async with answering("127.0.0.2", "127.0.0.1", "::1") as resolver:
        sock = await dial(resolver, "gw", port, why_not)
        assert judged == [f"127.0.0.2:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"]
    with sock:
        assert sock.getpeername() == ("127.0.0.1", port)

    outcome = await async_outcome(dial(Resolver(), "127.0.0.9", closed_port, why_not))
    assert outcome.detail == f"127.0.0.9:{closed_port}: 127.0.0.9:{closed_port}: no"
    assert (outcome.reason, outcome.permanent) == (Reason.FORBIDDEN, True)
    end = outcome.termination()
    assert (end.initiator, end.http_status) == ("client", 403)


async def test_a_name_is_looked_up_once_for_judgement_and_dial(server):
    """Another answer a moment later changes nothing."""
    port = server.getsockname()[1]
    answers = iter(["127.0.0.1", "127.0.0.2"])
    resolver = Resolver(ttl=0.0, getaddrinfo=lambda *_, **__: [(socket.AF_INET, 1, 6, "", (next(answers), 0))])
    async with resolver:
        sock = await dial(resolver, "gw", port, lambda address: None)
    with sock:
        assert sock.getpeername() == ("127.0.0.1", port)
    assert next(answers) == "127.0.0.2"


@pytest.mark.parametrize("closed", ["socket", "directory"])
async def test_a_socket_that_may_not_be_used_is_denied(tmp_path, closed):
    """The detail has owner, mode and the user of this process."""
    folder = tmp_path / "private"
    folder.mkdir()
    path = str(folder / "s")
    with socket.socket(socket.AF_UNIX) as server, as_nobody(tmp_path):
        server.bind(path)
        server.listen()
        (folder / "s" if closed == "socket" else folder).chmod(0)
        outcome = await async_outcome(dial_unix(path))
        folder.chmod(0o700)

    assert outcome.reason is Reason.BACKEND_DENIED
    assert outcome.detail.startswith(f"unix:{path}: Permission denied: ")
    assert ("has mode 0000" if closed == "socket" else "a directory above the socket is closed") in outcome.detail
    assert "wsbridge runs as " in outcome.detail


async def test_a_cause_that_is_not_found_soon_is_left_out(tmp_path, monkeypatch):
    """A file system or user database that hangs delays the end of a dial by no more than the time for that."""
    path, release = str(tmp_path / "s"), threading.Event()

    def hang(_):
        assert release.wait(10)
        return "found too late"

    monkeypatch.setattr(module, "_describe_refusal", hang)
    monkeypatch.setattr(module, "CAUSE_TIMEOUT", 0.05)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        try:
            outcome = await async_outcome(dial_unix(path))
        finally:
            release.set()
    assert (outcome.reason, outcome.detail) == (Reason.BACKEND_REFUSED, f"unix:{path}: Connection refused")


async def test_user_names_are_looked_up_in_a_thread(tmp_path, monkeypatch):
    """They may be in a directory service that does not answer: that holds up this dial alone, and not for long."""
    path, asked, release, here = str(tmp_path / "s"), trio.Event(), threading.Event(), threading.current_thread()

    def hang(uid):
        assert threading.current_thread() is not here
        trio.from_thread.run_sync(asked.set)
        release.wait(10)
        raise KeyError(uid)

    monkeypatch.setattr(module.pwd, "getpwuid", hang)
    with socket.socket(socket.AF_UNIX) as server, as_nobody(tmp_path):
        server.bind(path)
        server.listen()
        (tmp_path / "s").chmod(0)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(dial_unix, path)
                with trio.fail_after(10):
                    await asked.wait()
                nursery.cancel_scope.cancel()
        finally:
            release.set()


@pytest.mark.parametrize(("patience", "forgotten"), [(0.2, []), (0.7, ["gw"])])
async def test_a_client_that_leaves_soon_does_not_drop_the_addresses(patience, forgotten, monkeypatch, autojump_clock):
    """They serve all clients, perhaps while the DNS server does not answer; those that did not answer are dropped."""
    monkeypatch.setattr(module, "_connect", Attempts({"192.0.2.1": "hang"}))
    dropped = []
    known = types.SimpleNamespace(cached=lambda *_: [Address(socket.AF_INET, ("192.0.2.1", 1))], forget=dropped.append)
    with trio.move_on_after(patience):
        await dial(known, "gw", 1)
    assert dropped == forgotten


@pytest.mark.parametrize(("reason", "forgotten"), [(Reason.OVERLOAD, []), (Reason.BACKEND_REFUSED, ["gw"])])
async def test_a_shortage_of_this_host_does_not_drop_the_addresses(reason, forgotten, monkeypatch):
    """Without descriptors there would be none for the lookup, either."""
    monkeypatch.setattr(module, "_connect", Attempts({"192.0.2.1": reason}))
    dropped = []
    known = types.SimpleNamespace(cached=lambda *_: [Address(socket.AF_INET, ("192.0.2.1", 1))], forget=dropped.append)
    assert (await async_outcome(dial(known, "gw", 1))).reason is reason
    assert dropped == forgotten
