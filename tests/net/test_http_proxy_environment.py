"""Proxies from the environment: which variable counts, and which targets are excepted."""

import pytest

from wsbridge.config.urls import read_proxy_url, read_target
from wsbridge.net.http_proxy import proxy_from_environment

PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("target", "environ", "expected"),
    [
        ("wss://gw.example.org/", {"https_proxy": PROXY}, "http://proxy:3128"),
        ("wss://gw.example.org/", {"HTTPS_PROXY": PROXY}, "http://proxy:3128"),
        ("wss://gw.example.org/", {"http_proxy": PROXY}, None),
        ("ws://gw.example.org/", {"http_proxy": PROXY}, "http://proxy:3128"),
        ("ws://gw.example.org/", {"HTTP_PROXY": PROXY}, "http://proxy:3128"),
        ("ws://gw.example.org/", {"HTTP_PROXY": PROXY, "REQUEST_METHOD": "GET"}, None),
        ("ws://gw.example.org/", {"https_proxy": PROXY}, None),
        ("wss://gw.example.org/", {"https_proxy": "proxy:3128"}, "http://proxy:3128"),
        ("wss://gw.example.org/", {"https_proxy": "http://proxy"}, "http://proxy:80"),
        ("wss://gw.example.org/", {"https_proxy": "http://[2001:db8::1]"}, "http://[2001:db8::1]:80"),
        ("wss://gw.example.org/", {"https_proxy": "http://proxy:3128/"}, "http://proxy:3128"),
        ("wss://gw.example.org/", {"https_proxy": "HTTP://proxy:3128"}, "http://proxy:3128"),
        ("wss://gw.example.org/", {"all_proxy": PROXY}, "http://proxy:3128"),
        ("ws://gw.example.org/", {"ALL_PROXY": PROXY}, "http://proxy:3128"),
        ("ws://gw.example.org/", {"all_proxy": "http://other:1", "http_proxy": PROXY}, "http://proxy:3128"),
        ("wss://gw.example.org/", {"https_proxy": ""}, None),
        ("wss://gw.example.org/", {}, None),
        ("tcp://gw.example.org:22", {"https_proxy": PROXY, "http_proxy": PROXY}, None),
        ("ws://localhost/", {"http_proxy": PROXY}, None),
        ("ws://127.0.0.1:8080/", {"http_proxy": PROXY}, None),
    ],
)
def test_which_proxy(target, environ, expected):
    """The variable of the scheme, lower case first; never for this machine."""
    found = proxy_from_environment(read_target(target), environ)
    assert (None if found is None else str(found)) == expected


@pytest.mark.parametrize(
    ("host", "no_proxy", "excepted"),
    [
        ("gw.example.org", "*", True),
        ("gw.example.org", "example.org", True),
        ("gw.example.org", ".example.org", True),
        ("gw.example.org", "*.example.org", True),
        ("gw.example.org", "EXAMPLE.ORG.", True),
        ("gw.example.org", "other, gw.example.org", True),
        ("gw.example.org", "other gw.example.org", True),
        ("gw.example.org", "ample.org", False),
        ("gw.example.org", "gw.example.org:8443", False),
        ("gw.example.org", "gw.example.org:443", True),
        ("gw.example.org", ",,", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.4,example.org", False),
        ("[2001:db8::5]", "2001:db8::/32", True),
        ("[2001:db8::5]", "[2001:db8::5]:443", True),
        ("[2001:db8::5]", "[2001:db8::5]:80", False),
    ],
)
def test_no_proxy(host, no_proxy, excepted):
    """Names with all below them, addresses, networks, each with a port or without."""
    environ = {"https_proxy": PROXY, "no_proxy": no_proxy}
    assert (proxy_from_environment(read_target(f"wss://{host}/"), environ) is None) is excepted


@pytest.mark.parametrize(
    "value", ["socks5://proxy:1080", "https://user:hunter2@proxy:3128", "http://user:hunter2@:3128"]
)
def test_unusable_values_name_the_variable(value):
    """And never quote the password."""
    with pytest.raises(ValueError, match=r"^https_proxy: ") as caught:
        proxy_from_environment(read_target("wss://gw/"), {"https_proxy": value})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["https", "socks5", "socks5h"])
def test_proxies_that_are_not_supported_are_refused_by_name(scheme):
    """In the environment and in the file."""
    with pytest.raises(ValueError, match=f"^all_proxy: {scheme} proxies are not supported: use an HTTP proxy"):
        proxy_from_environment(read_target("wss://gw/"), {"all_proxy": f"{scheme}://user:hunter2@proxy:1"})
    with pytest.raises(ValueError, match=f"^{scheme} proxies are not supported") as caught:
        read_proxy_url(f"{scheme}://user:hunter2@proxy:1")
    assert "hunter2" not in str(caught.value)


def test_the_scheme_of_a_proxy_may_be_in_capitals():
    """As curl accepts it."""
    assert str(read_proxy_url("HTTP://proxy:3128")) == "http://proxy:3128"
