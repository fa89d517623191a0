"""Authentication by network."""

from __future__ import annotations

import socket

import pytest
from pydantic import ValidationError

from tests.auth.methods import auth_services, caller
from tests.rejections import async_outcome
from tests.serving import config_of, written
from wsbridge.auth.identity import ANONYMOUS, Identity
from wsbridge.auth.network import NetworkAuth, NetworkConfig
from wsbridge.config.errors import ConfigError
from wsbridge.net.address import Peer
from wsbridge.reasons import Reason, Rejected


def authenticator(**lists: list[str]) -> NetworkAuth:
    """Build one from the lists as written."""
    return NetworkAuth(NetworkConfig.model_validate({"kind": "network", **lists}), auth_services(ANONYMOUS)[0])


def peer(host: str) -> Peer:
    """Give somebody at an address; an empty one is a Unix socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET if host else socket.AF_UNIX
    return Peer(host, 5 if host else 0, family)


@pytest.mark.parametrize(
    ("lists", "host", "inside"),
    [
        ({"allow": ["203.0.113.0/24"]}, "203.0.113.7", True),
        ({"allow": ["203.0.113.0/24"]}, "203.0.114.7", False),
        ({"allow": ["203.0.113.0/24"]}, "2001:db8::1", False),
        ({"allow": ["203.0.113.0/24"], "deny": ["203.0.113.7"]}, "203.0.113.7", False),
        ({"deny": ["203.0.113.7"]}, "203.0.113.8", True),
        ({"deny": ["203.0.113.7"]}, "203.0.113.7", False),
        ({"allow": ["unix"]}, "", True),
        ({"allow": ["127.0.0.0/8"]}, "", False),
    ],
)
async def test_who_comes_in(lists: dict[str, list[str]], host: str, inside: bool) -> None:
    """Deny comes before allow; what is in no list of allow stays outside."""
    found = await async_outcome(authenticator(**lists).identify(caller(peer=peer(host))))
    if inside:
        assert found == Identity(method="network")
    else:
        assert isinstance(found, Rejected)
        assert (found.reason, found.failed_login) == (Reason.FORBIDDEN, False)
        assert (host or "a Unix socket") in found.detail


async def test_it_needs_no_request() -> None:
    """It is for plain TCP, too."""
    assert await authenticator(allow=["203.0.113.0/24"]).identify(caller(request=None)) == Identity(method="network")
    assert not NetworkConfig.model_validate({"kind": "network", "deny": ["10.0.0.0/8"]}).needs_request()


def test_without_a_list_it_is_refused() -> None:
    """Neither list, or an empty one, would authenticate everybody by oversight."""
    for lists in ({}, {"allow": []}, {"deny": []}):
        with pytest.raises(ValidationError):
            NetworkConfig.model_validate({"kind": "network", **lists})


def test_a_network_that_is_none_is_pointed_at() -> None:
    """The entry of the list is named in the message."""
    auth = {"kind": "network", "allow": ["10.0.0.0/8", "10.1.2.3/8"]}
    with pytest.raises(ConfigError, match=r"routes\.app\.auth\.allow\[1\]: .*write 10\.0\.0\.0/8"):
        config_of(written(route={"backend": "tcp://127.0.0.1:9", "auth": auth}))
