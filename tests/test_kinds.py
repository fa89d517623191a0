"""The tables of kinds fit each other."""

import pytest

from wsbridge.backends import Services
from wsbridge.config.address import BindAddress
from wsbridge.kinds import AUTH, BACKENDS, CONFIG_KINDS, LISTENERS
from wsbridge.net.resolve import Resolver


def test_every_kind_has_a_section_and_a_class():
    """No scheme and no way of authentication is in one table alone."""
    assert BACKENDS.keys() == CONFIG_KINDS.backends.keys()
    assert AUTH.keys() == CONFIG_KINDS.auth.keys()


@pytest.mark.parametrize("url", ["tcp://gw:1", "tls://gw:1", "unix:/run/x", "ws://gw/", "wss://gw/x"])
def test_backends_are_built_from_their_sections(url):
    """Every scheme, by the section of its scheme."""
    scheme = url.partition(":")[0]
    section = CONFIG_KINDS.backends[scheme].model_validate({"url": url})
    assert BACKENDS[scheme](section, Services(Resolver())).name == url


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_every_kind_of_bind_has_a_listener(kind):
    """By what the configuration calls it."""
    assert BindAddress(kind).kind in LISTENERS
