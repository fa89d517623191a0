"""Fuzz: any Authorization header is read or refused, and only the right pair comes in."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.auth.methods import auth_services, caller
from tests.rejections import async_outcome, challenges, outcome
from wsbridge.auth import passwords
from wsbridge.auth.basic import BasicAuth, BasicConfig
from wsbridge.auth.identity import ANONYMOUS, Identity
from wsbridge.protocol.credentials import BasicCredentials, parse_basic
from wsbridge.protocol.http1 import Headers
from wsbridge.reasons import Reason, Rejected

GOOD = base64.b64encode("zoë:päss".encode())
schemes = st.sampled_from([b"Basic "] * 8 + [b"basic  ", b"Basic", b"Bearer ", b"", b"Basic\t"])
pairs = st.one_of(
    st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=30),
    st.sampled_from(["zoë:päss".encode(), b"zo\xeb:p\xe4ss", "zoë:".encode(), b":", "zoë:päss\n".encode()]),
)
values = st.one_of(
    st.builds(lambda scheme, pair: scheme + base64.b64encode(pair), schemes, pairs),
    st.builds(lambda scheme, rest: scheme + rest, schemes, st.binary(max_size=40)),
    st.builds(lambda at, put: b"Basic " + GOOD[:at] + put + GOOD[at:], st.integers(0, 20), st.binary(max_size=2)),
)
headers = st.lists(values, min_size=1, max_size=2)


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> BasicAuth:
    """One user."""
    file = tmp_path_factory.mktemp("basic") / "users"
    file.write_text(f"zoë:{passwords.hash_password('päss'.encode(), ln=12).text}\n")
    return BasicAuth(BasicConfig(users=file), auth_services(ANONYMOUS)[0])


@given(headers)
def test_any_header_is_read_or_refused(shown: list[bytes]) -> None:
    """What is decoded is what was encoded; a rejection has one printable sentence."""
    found = outcome(parse_basic, Headers((b"authorization", value) for value in shown))
    if isinstance(found, BasicCredentials):
        (value,) = shown
        encoded = base64.b64encode(found.username.encode() + b":" + found.password)
        assert encoded == value.strip(b" \t").partition(b" ")[2].strip(b" ")
    elif isinstance(found, Rejected):
        assert found.detail.isprintable()
    else:
        assert found is None


@given(headers)
async def test_only_the_right_pair_comes_in(way: BasicAuth, shown: list[bytes]) -> None:
    """Everything else is a denial that names nothing of what was sent."""
    found = await async_outcome(way.identify(caller(*((b"authorization", value) for value in shown))))
    if isinstance(found, Identity):
        assert found == Identity("zoë", "basic")
        assert len(shown) == 1
        assert base64.b64decode(shown[0].partition(b" ")[2]) == "zoë:päss".encode()
    else:
        assert isinstance(found, Rejected)
        assert found.reason is Reason.UNAUTHENTICATED
        assert challenges(found) == ('Basic realm="wsbridge", charset="UTF-8"',)
        assert found.detail.isprintable()
        assert "päss" not in found.detail
