"""Templates filled by clients."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsbridge.backends.target_policy import parse_host
from wsbridge.backends.target_template import MAX_TARGET_PATH_LENGTH, fill_template, host_target, unix_target
from wsbridge.config.backend_urls import UrlTemplate, read_backend_url
from wsbridge.protocol.uri import normalise_target


def template(text: str) -> UrlTemplate:
    """Read one."""
    found = read_backend_url(text)
    assert isinstance(found, UrlTemplate)
    return found


@pytest.mark.parametrize(
    ("text", "values", "result"),
    [
        ("tcp://{h}:{p}", {"h": "DB.example", "p": "22"}, "tcp://db.example:22"),
        ("tcp://{h}:{p}", {"h": "::1", "p": "22"}, "tcp://[::1]:22"),
        ("tcp://[{h}]:{p}", {"h": "[::1]", "p": "22"}, "tcp://[::1]:22"),
        ("tls://{n}.vms.example:5900", {"n": "a"}, "tls://a.vms.example:5900"),
        ("tcp://10.0.0.{n}:59{d}", {"n": "7", "d": "01"}, "tcp://10.0.0.7:5901"),
        ("ws://{h}/x/{r}?q={r}", {"h": "gw", "r": "a b&c=ü"}, "ws://gw:80/x/a%20b%26c%3D%C3%BC?q=a%20b%26c%3D%C3%BC"),
        ("unix:/run/vnc/{n}.sock", {"n": "a"}, "unix:/run/vnc/a.sock"),
    ],
)
def test_targets(text: str, values: dict[str, str], result: str) -> None:
    """Every value is inserted at its place; the target is in its normal form."""
    target = fill_template(template(text), values)
    assert str(target) == result
    assert type(target) is not UrlTemplate


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("tcp://{h}:{p}", {"h": "a:1@b", "p": "22"}),
        ("tcp://{h}:{p}", {"h": "127.1", "p": "22"}),
        ("tcp://{h}:{p}", {"h": "a", "p": "22/x"}),
        ("tcp://{h}:{p}", {"h": "a", "p": "0"}),
        ("tcp://{h}:{p}", {"h": "a/../b", "p": "22"}),
        ("tcp://{n}.vms.example:22", {"n": "evil.example/"}),
        ("tcp://{n}.vms.example:22", {"n": "a.b"}),
        ("tcp://{n}.vms.example:22", {"n": "evil.example:22#"}),
        ("tcp://{n}.vms.example:22", {"n": "-a"}),
        ("tcp://10.0.0.{n}:22", {"n": "256"}),
        ("tcp://10.0.0.{n}:22", {"n": "07"}),
        ("tcp://10.0.0.{n}:22", {"n": "0x7"}),
        ("tcp://a:59{d}", {"d": "-1"}),
        ("tcp://a:59{d}", {"d": "1234"}),
        ("ws://a/{r}", {"r": ".."}),
        ("ws://a/{r}", {"r": "."}),
        ("ws://a/{r}", {"r": "../x"}),
        ("ws://a/x{r}", {"r": "/y"}),
        ("ws://a/{r}", {"r": "\\"}),
        ("ws://a/{r}", {"r": "\0"}),
        ("ws://a/{r}", {"r": "ü" * 700}),
        ("unix:/run/vnc/{n}", {"n": ".."}),
        ("unix:/run/vnc/{n}", {"n": "../docker.sock"}),
        ("unix:/run/vnc/{n}", {"n": "/run/docker.sock"}),
        ("unix:/run/vnc/.{n}", {"n": "."}),
        ("unix:/run/vnc/{n}", {"n": "a\0b"}),
        ("unix:/run/vnc/{n}", {"n": "a\nb"}),
        ("unix:/run/vnc/{n}", {"n": "x" * 100}),
        ("unix:/run/vnc/{n}", {"n": "\udcff"}),
    ],
)
def test_values_that_fit_nowhere(text: str, values: dict[str, str]) -> None:
    """What would end its place, leave its directory, or mean another address."""
    with pytest.raises(ValueError, match=r"."):
        fill_template(template(text), values)


def test_a_long_path_is_refused() -> None:
    """Escapes make a value longer than it was."""
    with pytest.raises(ValueError, match=f"the maximum is {MAX_TARGET_PATH_LENGTH}"):
        fill_template(template("ws://a/{a}{b}"), {"a": "ü" * 500, "b": "ü" * 500})


def test_text_forms() -> None:
    """IPv6 has brackets, a path its scheme."""
    assert str(host_target("wss", "::1", 443, "/x")) == "wss://[::1]:443/x"
    assert str(unix_target("/run/x")) == "unix:/run/x"


@pytest.mark.parametrize("path", ["x", "", "/a/../b", "/./a", "/a\0", "/" + "x" * 107])
def test_paths_of_no_socket(path: str) -> None:
    """Relative, not plain, too long."""
    with pytest.raises(ValueError, match=r"."):
        unix_target(path)


TEMPLATES = ["tcp://{a}:{b}", "tcp://{a}.vms.example:5900", "tcp://10.0.0.{a}:59{b}", "wss://gw.example/{a}?x={b}"]


@given(
    text=st.sampled_from([*TEMPLATES, "unix:/run/vnc/{a}", "unix:/run/vnc/{a}/{b}.sock"]),
    a=st.one_of(st.text(max_size=20), st.sampled_from(["..", "a/../b", "10.0.0.1", "%2e%2e", "a.b", "::1"])),
    b=st.one_of(st.text(max_size=8), st.from_regex(r"[0-9]{1,5}", fullmatch=True)),
)
def test_no_value_leaves_its_place(text: str, a: str, b: str) -> None:
    """Whatever the values are: the fixed parts of the template hold, and each part is well-formed."""
    try:
        target = fill_template(template(text), {"a": a, "b": b})
    except ValueError:
        return
    if target.scheme == "unix":
        assert target.path.startswith("/run/vnc/")
        assert ".." not in target.path.split("/")
        assert target.path.count("/") == text.count("/")
        return
    assert parse_host(target.host) == target.host
    assert 1 <= target.port <= 65535
    if "vms" in text:
        assert target.host.endswith(".vms.example")
        assert target.host.count(".") == 2
    if target.scheme == "wss":
        assert (target.host, target.port) == ("gw.example", 443)
        assert normalise_target(target.path)
        assert target.path.isascii()
        assert target.path.count("/") == 1
