"""Which target a client gets, and whether it is allowed."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.backends.target_requests import asking
from tests.config.loading import LISTENERS, read
from tests.rejections import async_outcome
from wsbridge.auth.identity import ANONYMOUS, Identity
from wsbridge.backends import dynamic
from wsbridge.backends.dynamic import DynamicTarget, FixedTarget, TargetPolicy, build_target_policy
from wsbridge.net.address import Address, ListeningAddresses
from wsbridge.protocol.uri import HostPatterns, PathPattern
from wsbridge.reasons import Reason, Rejected

TARGETS = "allowed_targets: {networks: [10.0.0.0/8], ports: [22], unix: [/run]}"
PATH = "match: {path: '/{h}/{p}'}"


def choice(route: str, folder: Path | None = None, own: ListeningAddresses | None = None) -> TargetPolicy | None:
    """Build the choice of a route from its text in a file."""
    section = read(f"{LISTENERS}routes: {{r: {{{route}}}}}\n", folder=folder).config.routes["r"]
    path = getattr(section.match, "path", None)
    return build_target_policy(section, PathPattern(path) if path else None, own or ListeningAddresses())


def many(route: str, **facts: Any) -> DynamicTarget:
    """The same, for a route whose backend clients choose."""
    found = choice(route, **facts)
    assert isinstance(found, DynamicTarget)
    return found


TEMPLATE = f"{PATH}, backend: 'tcp://{{h}}:{{p}}', auth: none, {TARGETS}"


async def test_a_target_that_is_allowed() -> None:
    """Its addresses are judged later, one by one."""
    chosen = await async_outcome(many(TEMPLATE).select(asking("/10.0.0.1/22"), ANONYMOUS))

    assert not isinstance(chosen, Rejected)
    assert str(chosen.target) == "tcp://10.0.0.1:22"
    assert chosen.check_address(Address(socket.AF_INET, ("10.0.0.1", 22))) is None
    assert chosen.check_address(Address(socket.AF_INET, ("11.0.0.1", 22))) is not None


@pytest.mark.parametrize("target", ["/10.0.0.1/23", "/11.0.0.1/22", "/127.1/22", "/10.0.0.1/x", "/a/b/c", "/%ff/22"])
async def test_whatever_is_wrong_the_ending_is_the_same(target: str) -> None:
    """Forbidden, the client's doing, with the sentence for the log alone."""
    end = await async_outcome(many(TEMPLATE).select(asking(target), ANONYMOUS))

    assert isinstance(end, Rejected)
    assert (end.reason, end.initiator, end.termination().http_status, end.headers) == (
        Reason.FORBIDDEN,
        "client",
        403,
        (),
    )
    assert end.detail


@pytest.mark.parametrize(
    ("backend", "target", "fine"),
    [
        ("tcp://10.0.0.1:22", None, True),
        ("tcp://10.0.0.1:22", "tcp://10.0.0.1:22", True),
        ("tcp://db.example:22", "tcp://DB.example.:22", True),
        ("tcp://10.0.0.1:22", "tcp://10.0.0.1:23", False),
        ("tcp://10.0.0.1:22", "tls://10.0.0.1:22", False),
        ("tcp://10.0.0.1:22", "tcp://10.0.0.2:22", False),
        ("tcp://10.0.0.1:22", "nonsense", False),
        ("ws://db/x", "ws://db:80/x", True),
        ("ws://db/x", "ws://db/y", False),
        ("unix:/run//x", "unix:/run/x", True),
        ("unix:/run/x", "unix:/run/y", False),
        ("ws+unix:/run/x:/x", "ws://localhost/x", False),
    ],
)
async def test_an_identity_for_one_target(backend: str, target: str | None, fine: bool) -> None:
    """It reaches a fixed backend only if that is the one."""
    found = choice(f"match: any, backend: '{backend}', auth: {{kind: bearer, tokens: /t}}")
    assert isinstance(found, FixedTarget)
    end = await async_outcome(found.select(asking("/"), Identity("a", target=target)))
    assert (end is None) is fine
    if end is not None:
        assert end.reason is Reason.FORBIDDEN
    assert found.redact_target("/?x=y") == "/?x=y"


async def test_an_identity_for_one_target_chooses_no_other() -> None:
    """What comes of the request has to be the same."""
    found = many(TEMPLATE)
    alice = Identity("alice", target="tcp://10.0.0.1:22")
    assert not isinstance(await async_outcome(found.select(asking("/10.0.0.1/22"), alice)), Rejected)
    end = await async_outcome(found.select(asking("/10.0.0.2/22"), alice))
    assert isinstance(end, Rejected)
    assert end.detail == "the identity is for another target"


async def test_the_target_of_an_identity_is_judged() -> None:
    """By any source of the target."""
    found = many(f"match: any, backend: '{{target}}', auth: {{kind: bearer, tokens: /t}}, {TARGETS}")
    assert not isinstance(await async_outcome(found.select(None, Identity("a", target="tls://10.0.0.1:22"))), Rejected)
    for target in ("tls://11.0.0.1:22", "tcp://127.0.0.1:22", "wss://10.0.0.1/", None):
        assert isinstance(await async_outcome(found.select(None, Identity("a", target=target))), Rejected)


def test_where_nothing_is_chosen() -> None:
    """Routes without a backend, or without authentication, have no choice to make."""
    assert choice("match: any, respond: 204") is None
    assert choice("match: any, backend: 'tcp://a:1', auth: none") is None
    assert choice("match: any, backend: 'tcp://a:1', auth: {kind: network, allow: [10.0.0.0/8]}") is None


async def test_a_socket_is_judged_by_where_it_is(tmp_path: Path) -> None:
    """The path to connect to has no links; one that leads out, or is not there, is forbidden."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").touch()
    (tmp_path / "b").touch()
    (tmp_path / "run" / "out").symlink_to(tmp_path / "b")
    backend = f"backend: 'unix:{tmp_path}/run/{{query.t}}', auth: none, allowed_targets: {{unix: [run]}}"
    found = many(f"match: any, {backend}", folder=tmp_path)

    async def path(name: str) -> str | Rejected:
        chosen = await async_outcome(found.select(asking(f"/?t={name}"), ANONYMOUS))
        return chosen if isinstance(chosen, Rejected) else await async_outcome(chosen.resolve_path())

    assert await path("a") == str(tmp_path / "run" / "a")
    for name in ("out", "gone", "..%2Fb", ".."):
        end = await path(name)
        assert isinstance(end, Rejected)
        assert (end.reason, end.initiator) == (Reason.FORBIDDEN, "client")


async def test_a_directory_of_sockets_that_hangs_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system that does not answer outlives neither the client nor the process."""
    asked, release = trio.Event(), threading.Event()
    waited_for = []

    def hang(*_: object, **__: object) -> str:
        trio.from_thread.run_sync(asked.set)
        waited_for.append(release.wait(2))
        return ""

    monkeypatch.setattr(dynamic, "resolve_socket_path", hang)
    backend = f"backend: 'unix:{tmp_path}/{{query.t}}', auth: none, allowed_targets: {{unix: [.]}}"
    chosen = await async_outcome(many(f"match: any, {backend}", folder=tmp_path).select(asking("/?t=a"), ANONYMOUS))
    assert not isinstance(chosen, Rejected)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chosen.resolve_path)
            await asked.wait()
            nursery.cancel_scope.cancel()
        assert not waited_for
    finally:
        release.set()


async def test_without_a_thread_a_socket_is_overload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the limit of tasks of the unit: nothing is dialled that was not checked."""

    async def fail(*_: object, **_options: object) -> None:
        raise RuntimeError("can't start new thread")

    backend = f"backend: 'unix:{tmp_path}/{{query.t}}', auth: none, allowed_targets: {{unix: [.]}}"
    chosen = await async_outcome(many(f"match: any, {backend}", folder=tmp_path).select(asking("/?t=a"), ANONYMOUS))
    assert not isinstance(chosen, Rejected)
    monkeypatch.setattr(trio.to_thread, "run_sync", fail)
    outcome = await async_outcome(chosen.resolve_path())
    assert isinstance(outcome, Rejected)
    assert (outcome.reason, outcome.detail) == (Reason.OVERLOAD, "can't start new thread")


async def test_our_own_socket(tmp_path: Path) -> None:
    """It is forbidden unless that is written."""
    own = ListeningAddresses()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "gw"))
        own.add(sock)
        for written, fine in (("", False), (", allow_own_listeners: true", True)):
            backend = f"backend: 'unix:{tmp_path}/{{query.t}}', auth: none, allowed_targets: {{unix: [.]{written}}}"
            chosen = await async_outcome(
                many(f"match: any, {backend}", folder=tmp_path, own=own).select(asking("/?t=gw"), ANONYMOUS)
            )
            assert not isinstance(chosen, Rejected)
            assert isinstance(await async_outcome(chosen.resolve_path()), str) is fine


def test_a_token_is_hidden_in_the_log(tmp_path: Path) -> None:
    """By the choice of its route."""
    (tmp_path / "t").write_text("")
    found = many(f"match: any, backend: {{tokens: t, token_from: query.id}}, auth: none, {TARGETS}", folder=tmp_path)
    assert found.redact_target("/x?id=s3cret") == "/x?id=***"


async def test_a_label_of_the_host_chooses_the_target() -> None:
    """The named label of match.host is a field like a segment of the path."""
    host = "{tenant}.example.org"
    text = "backend: 'tcp://{tenant}.internal:22', auth: none, allowed_targets: {names: ['*.internal'], ports: [22]}"
    section = read(f"{LISTENERS}routes: {{r: {{match: {{host: '{host}'}}, {text}}}}}\n").config.routes["r"]
    policy = build_target_policy(section, None, ListeningAddresses(), hosts=HostPatterns([host]))

    assert policy is not None
    chosen = await async_outcome(policy.select(asking("/"), ANONYMOUS))
    assert not isinstance(chosen, Rejected)
    assert str(chosen.target) == "tcp://gw.internal:22"
