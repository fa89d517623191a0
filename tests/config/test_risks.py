"""Dangerous settings: each is an error or a warning with a code, and its harmless neighbour is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.loading import BACKEND, LISTENERS, file, listeners, read, summaries, wrong
from wsbridge.auth import passwords
from wsbridge.config.errors import ConfigError
from wsbridge.config.load import load_file
from wsbridge.registry import CONFIG_REGISTRY

PROXIED = "listeners: {{web: {{bind: '10.0.0.1:1', trusted_proxies: [{}], client_address_from: forwarded}}}}\n"
TLS = "listeners: {web: {bind: '0.0.0.0:1', tls: {certificates: [{cert: c, key: k}]}}}\n"
BASIC = "{kind: basic, users: /u}"
EVERYTHING = ["0.0.0.0/0", "'::/0'", "0.0.0.0/1, 128.0.0.0/1", "0.0.0.0/2, 64.0.0.0/2", "'2000::/3'", "'::ffff:0:0/96'"]


def codes(text: str) -> list[str]:
    """Give codes and settings of all problems."""
    try:
        return summaries(read(text).warnings)
    except ConfigError as error:
        return summaries(error.problems)


@pytest.mark.parametrize("networks", EVERYTHING)
def test_proxies_everywhere(networks: str) -> None:
    """However the address space is written."""
    found = codes(file(PROXIED.format(f"{networks}, unix"), f"match: {{host: a}}, {BACKEND}, auth: {BASIC}"))
    assert [each.partition("[")[0] for each in found] == ["W015 listeners.web.trusted_proxies"]
    assert not codes(file(PROXIED.format("10.0.0.0/8, 172.16.0.0/12"), f"match: any, {BACKEND}, auth: {BASIC}"))


@pytest.mark.parametrize("networks", EVERYTHING)
def test_limits_that_exempt_everybody(networks: str) -> None:
    """Then no failed login counts."""
    text = file(LISTENERS, f"match: any, {BACKEND}, auth: none")
    assert codes(text + f"limits: {{per_address: {{exempt: [{networks}]}}}}\n") == ["W024 limits.per_address.exempt"]
    assert not codes(text + "limits: {per_address: {exempt: [10.0.0.0/8, unix]}}\n")


@pytest.mark.parametrize("network", ["deny: [10.0.0.0/8]", *(f"allow: [{each}]" for each in EVERYTHING)])
def test_networks_that_admit_everybody(network: str) -> None:
    """Beside other methods they make these needless, alone they authenticate nobody."""
    rule = f"{{kind: network, {network}}}"
    route = f"match: {{host: a}}, {BACKEND}, auth: "
    assert codes(file(TLS, route + f"{{any_of: [{BASIC}, {rule}]}}")) == ["E029 routes.r0.auth.any_of[1]"]
    assert codes(file(TLS, route + f"{{any_of: [{BASIC}, {{all_of: [{rule}]}}]}}")) == ["E029 routes.r0.auth.any_of[1]"]
    assert not codes(file(TLS, route + f"{{all_of: [{BASIC}, {rule}]}}"))
    assert codes(file(TLS, route + rule)) == ["W020 routes.r0.auth"]
    assert not codes(file(TLS, route + f"{{any_of: [{BASIC}, {{kind: network, allow: [10.0.0.0/8, unix]}}]}}"))


@pytest.mark.parametrize("networks", EVERYTHING)
@pytest.mark.parametrize("ports", ["1-65535", "22"])
def test_open_proxies(networks: str, ports: str) -> None:
    """Anyone can connect anywhere."""
    route = "match: {host: a, path: '/{h}'}, backend: 'tcp://{h}:22', "
    targets = f"allowed_targets: {{networks: [{networks}], ports: [{ports}]}}, "
    expected = ["W021 routes.r0.allowed_targets.networks"]
    assert codes(file(TLS, f"{route}{targets}auth: none")) == expected
    assert not codes(file(TLS, f"{route}{targets}auth: {BASIC}"))
    small = "allowed_targets: {networks: [10.0.0.0/8], ports: [22]}, "
    assert not codes(file(TLS, f"{route}{small}auth: none"))


def test_networks_that_include_a_proxy() -> None:
    """A request whose client the proxy does not report is the proxy's own."""
    route = f"match: {{host: a}}, {BACKEND}, auth: "
    first = PROXIED.format("10.1.0.0/16, unix")
    warned = ["W023 routes.r0.auth.allow[0]"]
    assert codes(file(first, route + "{kind: network, allow: [10.0.0.0/8]}")) == warned
    assert codes(file(first, route + "{kind: network, allow: [10.1.2.3]}")) == warned
    assert codes(file(first, route + "{kind: network, allow: [unix]}")) == warned
    assert not codes(file(first, route + "{kind: network, allow: [10.2.0.0/16]}"))
    assert not codes(file(first, route + "{kind: network, allow: [10.0.0.0/8], deny: [10.1.0.0/16]}"))


def test_hosts_that_a_plain_listener_accepts() -> None:
    """Without a host, credentials or TLS only addresses pass, because of DNS rebinding."""
    warned = "W025 routes.r0.match"
    public = listeners("0.0.0.0:1")
    assert warned in codes(file(public, f"match: any, {BACKEND}, auth: none"))
    assert warned in codes(file(public, "match: {path: /*}, files: /srv, auth: {kind: network, allow: [10.0.0.0/8]}"))
    assert warned not in codes(file(public, f"match: {{host: a.example}}, {BACKEND}, auth: none"))
    assert warned not in codes(file(public, f"match: any, {BACKEND}, auth: {BASIC}"))
    assert warned not in codes(file(TLS, f"match: any, {BACKEND}, auth: none"))
    assert warned not in codes(file(listeners("127.0.0.1:1"), f"match: any, {BACKEND}, auth: none"))
    assert warned not in codes(file(listeners("localhost:1"), f"match: any, {BACKEND}, auth: none"))


def test_hosts_behind_proxies() -> None:
    """The rule does not hold for requests of trusted proxies, so that the file has to name what it expects."""
    warned = "W026 routes.r0.match"
    first = PROXIED.format("unix, 127.0.0.1")
    assert codes(file(first, f"match: any, {BACKEND}, auth: none")) == ["W005 listeners.web.bind", warned]
    origins = "allowed_origins: ['https://a.example']"
    for safe in (f"match: {{host: a}}, {BACKEND}, auth: none", f"match: any, {BACKEND}, auth: none, {origins}"):
        assert warned not in codes(file(first, safe))
    assert not codes(file(first, f"match: any, {BACKEND}, auth: {BASIC}"))


USERS = f"alice:{passwords.hash_password(b'x', ln=12).text}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a configuration, users and pages."""
    (tmp_path / "pages").mkdir()
    for name in ("users", "pages/index.html"):
        (tmp_path / name).write_text(USERS)
        (tmp_path / name).chmod(0o600)
    text = file(LISTENERS, f"match: any, {BACKEND}, auth: {{kind: basic, users: users}}")
    (tmp_path / "w.yaml").write_text(text + "  p: {match: {path: /*}, files: pages, auth: none}\n")
    return tmp_path


def loaded(folder: Path) -> list[str]:
    """Load the configuration of a directory, and give what is warned of."""
    return summaries(load_file(folder / "w.yaml", CONFIG_REGISTRY, {}).warnings)


@pytest.mark.parametrize(
    ("name", "mode", "warned"),
    [
        ("users", 0o602, "W022 routes.r0.auth.users"),
        ("pages", 0o757, "W022 routes.p.files"),
        ("w.yaml", 0o666, "W022 "),
        ("", 0o777, "W022 "),
        ("users", 0o604, "W012 routes.r0.auth.users"),
    ],
)
def test_files_that_others_can_change_or_read(folder: Path, name: str, mode: int, warned: str) -> None:
    """Lists, keys, pages, their directories and the file itself."""
    assert loaded(folder) == []
    (folder / name).chmod(mode)
    assert warned in loaded(folder)
    assert {each.split()[0] for each in loaded(folder)} == {warned.split()[0]}


@pytest.mark.parametrize("pages", [".", "{pages: x, dir: .}", "link"])
def test_pages_that_contain_a_secret(folder: Path, pages: str) -> None:
    """They would be sent to everybody."""
    (folder / "link").symlink_to(".")
    text = (folder / "w.yaml").read_text()
    pages = "{dir: ., index: index.html}" if pages.startswith("{") else pages
    problems = wrong(text.replace("files: pages", f"files: {pages}"), folder=folder)
    assert summaries(problems) == ["E036 routes.p.files"]
    assert f"would serve {folder}/users" in problems[0].message
