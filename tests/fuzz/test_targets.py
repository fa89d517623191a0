"""Requests of all kinds for routes whose clients choose: whatever is let through is what the file allows.

The judgement is made a second time here, in the plainest way, by what the C library makes of the host.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network

import trio
from hypothesis import example, given
from hypothesis import strategies as st

from tests.backends.target_requests import asking
from tests.config.loading import LISTENERS, read
from tests.rejections import outcome
from wsbridge.auth.identity import ANONYMOUS
from wsbridge.backends.base import ChosenTarget
from wsbridge.backends.dynamic import TargetPolicy, build_target_policy
from wsbridge.net.address import Address, ListeningAddresses, to_sockaddr
from wsbridge.protocol.uri import PathPattern
from wsbridge.reasons import Reason, Rejected

NETWORKS = [ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"), ip_network("127.0.0.7/32")]
PIECES = [
    *("10.0.0.1", "127.0.0.7", "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.7", "::ffff:10.0.0.1", "::1"),
    *("[2001:db8::1]", "2001:db8::1", "fe80::1%25lo", "db.good.example", "evil.example", "good.example", "localhost"),
    *(
        "22",
        "5900",
        "65535",
        "0",
        "022",
        "99999",
        "%31",
        "%2e",
        "%2F",
        "%00",
        "%ff",
        "%",
        "+",
        "/",
        "?host=",
        "&port=",
        "&host=",
    ),
    *(".", ":", "@", "#", "\\", "a", "%5B", "%5D", "%3A", "x" * 70, "\u0661"),
]
REQUESTS = st.one_of(
    st.tuples(st.sampled_from(PIECES), st.sampled_from(PIECES)).map(lambda two: f"/to/{two[0]}/{two[1]}"),
    st.lists(st.sampled_from(PIECES), max_size=6).map(lambda parts: f"/to/{''.join(parts)}/22"),
    st.tuples(st.lists(st.sampled_from(PIECES), max_size=4), st.sampled_from(PIECES)).map(
        lambda found: f"/q?host={''.join(found[0])}&port={found[1]}"
    ),
    st.text(max_size=40).map(lambda text: f"/{text}"),
)


def choice(backend: str, path: str) -> TargetPolicy:
    """Build a choice with the rules of this file."""
    networks = ", ".join(f"'{network}'" for network in NETWORKS)
    targets = f"allowed_targets: {{networks: [{networks}], names: ['*.good.example'], ports: [22, 5900-5999]}}"
    text = f"{LISTENERS}routes: {{r: {{match: {{path: '{path}'}}, backend: '{backend}', auth: none, {targets}}}}}\n"
    found = build_target_policy(read(text).config.routes["r"], PathPattern(path), ListeningAddresses())
    assert found is not None
    return found


BY_PATH = choice("tcp://{host}:{port}", "/to/{host}/{port}")
BY_QUERY = choice("tcp://{query.host}:{query.port}", "/q")


def judged(chosen: ChosenTarget) -> list[str]:
    """Give the addresses of a literal target that pass, as the C library reads them; of a name none."""
    try:
        rows = socket.getaddrinfo(chosen.target.host, chosen.target.port, flags=socket.AI_NUMERICHOST)
    except OSError:
        return []
    addresses = {Address(int(row[0]), to_sockaddr(row[4])) for row in rows}
    return [address.sockaddr[0] for address in addresses if chosen.check_address(address) is None]


@given(REQUESTS)
@example("/to/10.0.0.1/22")
@example("/to/127.0.0.1/22")
@example("/to/a.good.example/5900")
@example("/q?host=%5B2001:db8::1%5D&port=22")
@example("/q?host=10.0.0.1&host=127.0.0.1&port=22")
def test_what_comes_through_is_allowed(target: str) -> None:
    """A target has an allowed port, and an allowed name or an allowed address; all else is forbidden."""
    for each in (BY_PATH, BY_QUERY):
        chosen = outcome(trio.run, each.select, asking(target), ANONYMOUS)
        assert chosen is not None
        if isinstance(chosen, Rejected):
            assert chosen.reason is Reason.FORBIDDEN
            continue
        found = chosen.target
        assert found.scheme == "tcp"
        assert found.port == 22 or 5900 <= found.port <= 5999
        passed = judged(chosen)
        if found.host.endswith(".good.example"):
            assert passed == []
        else:
            (host,) = set(passed)
            assert any(ip_address(host) in network for network in NETWORKS)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_name_leads_to_allowed_addresses_alone(one: int, other: int) -> None:
    """Whatever a resolver says, each address that passes is in a network that is written, and not a special one."""
    chosen = trio.run(BY_PATH.select, asking("/to/a.good.example/22"), ANONYMOUS)
    assert chosen is not None
    assert not isinstance(chosen, Rejected)
    for ip in (ip_address(one), ip_address(other), ip_address(f"2001:db8::{one & 0xFFFF:x}"), ip_address(one << 96)):
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        address = Address(family, to_sockaddr((str(ip), 22) if ip.version == 4 else (str(ip), 22, 0, 0)))
        assert (chosen.check_address(address) is None) == any(ip in network for network in NETWORKS)
