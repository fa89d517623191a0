"""Authentication by any of several methods."""

from __future__ import annotations

from tests.auth.methods import Says, auth_services, caller
from tests.rejections import async_outcome
from wsbridge.auth.identity import Identity, auth_unavailable, unauthenticated
from wsbridge.auth.network import AnyOf, AnyOfConfig
from wsbridge.reasons import Reason, Rejected

ALICE = Identity("alice", "basic")
NOBODY = unauthenticated("no credentials", challenges=('Basic realm="wsbridge"',))
WRONG = unauthenticated("the token is unknown", failed_login=True, challenges=("Bearer",))
CLOSED = auth_unavailable("nobody answers")
OUTSIDE = Rejected(Reason.FORBIDDEN, "203.0.113.7 is in none of the networks")


def config(*members: Says) -> AnyOfConfig:
    """Give a section over these."""
    return AnyOfConfig(any_of=members or (Says(), Says()))


async def test_the_first_identity_is_enough() -> None:
    """Later methods are not asked."""
    services, methods = auth_services(ALICE, WRONG)
    assert await async_outcome(AnyOf(config(), services).identify(caller())) == ALICE
    assert [method.asked for method in methods] == [1, 0]


async def test_a_later_method_may_identify_the_client() -> None:
    """A denial of one method is not the last word."""
    services, methods = auth_services(WRONG, ALICE)
    assert await async_outcome(AnyOf(config(), services).identify(caller())) == ALICE
    assert [method.asked for method in methods] == [1, 1]


async def test_a_denial_tells_all_that_was_said() -> None:
    """It has the sentences and challenges of all methods, and is a failed login if one of them was."""
    services, _ = auth_services(NOBODY, WRONG)
    denied = await async_outcome(AnyOf(config(), services).identify(caller()))
    assert (
        denied.args
        == unauthenticated(
            "no credentials; the token is unknown", failed_login=True, challenges=('Basic realm="wsbridge"', "Bearer")
        ).args
    )


async def test_one_that_could_not_be_asked_counts_first() -> None:
    """It might have known the client, which may try again; missing credentials are reported before anything else."""
    for answers, reason in (
        ((WRONG, CLOSED), Reason.AUTH_UNAVAILABLE),
        ((OUTSIDE, NOBODY), Reason.UNAUTHENTICATED),
        ((OUTSIDE, OUTSIDE), Reason.FORBIDDEN),
    ):
        denied = await async_outcome(AnyOf(config(), auth_services(*answers)[0]).identify(caller()))
        assert isinstance(denied, Rejected)
        assert denied.reason is reason


def test_it_needs_a_request_if_all_do() -> None:
    """One method that does without is enough for plain TCP."""
    assert config(Says(http=True), Says(http=True)).needs_request()
    assert not config(Says(http=True), Says(http=False)).needs_request()


def test_it_takes_cookies_if_one_does() -> None:
    """The rule of Origin holds for the whole."""
    assert config(Says(), Says(cookies=True)).accepts_cookies()
    assert not config().accepts_cookies()


def test_it_needs_a_certificate_if_all_do() -> None:
    """One method that does without is enough where clients are asked for none."""
    assert config(Says(certificate=True), Says(certificate=True)).needs_certificate()
    assert not config(Says(certificate=True), Says()).needs_certificate()
