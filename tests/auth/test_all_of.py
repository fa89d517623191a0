"""Authentication by all of several methods."""

from __future__ import annotations

from tests.auth.methods import Says, auth_services, caller
from tests.rejections import async_outcome
from wsbridge.auth.identity import Identity
from wsbridge.auth.network import AllOf, AllOfConfig
from wsbridge.reasons import Reason, Rejected

INSIDE = Identity("", "network")
ALICE = Identity("alice", "basic")
OUTSIDE = Rejected(Reason.FORBIDDEN, "203.0.113.7 is in none of the networks")


def config(*members: Says) -> AllOfConfig:
    """Give a section over these."""
    return AllOfConfig(all_of=members or (Says(), Says()))


async def test_all_methods_must_identify_the_client() -> None:
    """What they know is one identity."""
    found = await async_outcome(AllOf(config(), auth_services(INSIDE, ALICE)[0]).identify(caller()))
    assert isinstance(found, Identity)
    assert (found.name, found.method) == ("alice", "network+basic")


async def test_the_first_denial_is_the_last_question() -> None:
    """What comes after it, which may cost much, is not asked."""
    services, methods = auth_services(OUTSIDE, ALICE)
    assert await async_outcome(AllOf(config(), services).identify(caller())) == OUTSIDE
    assert [method.asked for method in methods] == [1, 0]


async def test_methods_that_allow_different_targets_allow_none() -> None:
    """None of them is ignored; the same target of two is one."""
    one = Identity("alice", "forward", target="tcp://10.0.0.1:1")
    same, other = Identity("", "ticket", target=one.target), Identity("", "ticket", target="tcp://10.0.0.2:1")
    found = await async_outcome(AllOf(config(), auth_services(one, same)[0]).identify(caller()))
    assert isinstance(found, Identity)
    assert found.target == one.target
    denied = await async_outcome(AllOf(config(), auth_services(one, other)[0]).identify(caller()))
    assert isinstance(denied, Rejected)
    assert denied.reason is Reason.FORBIDDEN


def test_it_needs_a_request_if_one_does() -> None:
    """Plain TCP can only do with methods that all do without."""
    assert config(Says(http=True), Says(http=False)).needs_request()
    assert not config(Says(http=False), Says(http=False)).needs_request()


def test_it_takes_cookies_if_one_does() -> None:
    """The rule of Origin holds for the whole."""
    assert config(Says(), Says(cookies=True)).accepts_cookies()


def test_it_needs_a_certificate_if_one_does() -> None:
    """Without one that method denies, and so does the whole."""
    assert config(Says(certificate=True), Says()).needs_certificate()
    assert not config(Says(), Says()).needs_certificate()
