"""Limits and timeouts: defaults, bounds, keys that belong together, and what a route may set."""

from __future__ import annotations

import pytest

from tests.config.loading import LISTENERS, ROUTES, read, summaries, wrong
from wsbridge.config.limits import GLOBAL_TIMEOUTS, ClientLimits, Limits, RouteLimits, Timeouts


@pytest.mark.parametrize(
    ("key", "fit", "unfit"),
    [
        ("connections", ["auto", "1", "1000000"], ["0", "many", "1.5"]),
        ("max_memory", ["off", "0%", "90%", "100%"], ["101%", "0.9", "90", "5.5%", "-1%", "auto"]),
        ("max_head_bytes", ["8KiB", "1MiB"], ["1023", "1025KiB", "0", "9" * 400, "9" * 400 + ".5GiB"]),
        ("max_head_line_bytes", ["256", "16KiB"], ["255", "17KiB", "2MiB"]),
        ("max_headers", ["1", "10000"], ["0", "10001"]),
        ("max_response_head_bytes", ["1KiB", "1MiB"], ["1023", "1025KiB"]),
        ("max_proxy_header_bytes", ["536", "16KiB"], ["535", "17KiB"]),
        ("overload_replies", ["0", "1000"], ["-1"]),
        ("lingering_sockets", ["0", "1000"], ["-1"]),
        ("lingering_bytes", ["0", "1MiB"], ["64KB"]),
        ("control_frame_rate", ["1", "100000"], ["0"]),
        ("max_frame_bytes", ["125", "64KiB"], ["124", "65537"]),
        ("used_tickets", ["1", "1000000"], ["0", "many"]),
        ("used_tickets_per_identity", ["1", "1000000"], ["0", "off"]),
        ("dns_threads", ["1", "256"], ["0", "257"]),
        ("dns_threads_per_route", ["1", "256"], ["0", "257"]),
        ("dns_threads_per_address", ["1", "256"], ["0", "257"]),
        ("dns_ttl", ["0s", "1h"], ["30", "off"]),
        ("dns_negative_ttl", ["0s", "1h"], ["30", "off"]),
        ("password_threads", ["auto", "1", "256"], ["0", "257", "many"]),
        ("password_queue", ["0", "1000"], ["-1", "auto"]),
        ("password_queue_per_address", ["1", "1000"], ["0", "off"]),
        ("detached_sessions", ["0", "100000"], ["-1", "off"]),
        ("detached_sessions_per_identity", ["1", "1000"], ["0", "off"]),
        ("replay_memory", ["1MiB", "64GiB"], ["1023KiB", "off"]),
        ("engine_threads", ["auto", "1", "256"], ["0", "257", "many"]),
    ],
)
def test_limit_bounds(key: str, fit: list[str], unfit: list[str]) -> None:
    """The values at the edges are accepted, those beyond are one error at their key."""
    for value in fit:
        read(LISTENERS + ROUTES + f"limits: {{{key}: {value}}}\n")
    for value in unfit:
        (problem,) = wrong(LISTENERS + ROUTES + f"limits: {{{key}: {value}}}\n")
        assert problem.setting == f"limits.{key}"


def test_every_limit_has_its_bounds_here() -> None:
    """No key is forgotten above."""
    (mark,) = (mark for mark in test_limit_bounds.pytestmark if mark.name == "parametrize")

    assert [*(key for key, _, _ in mark.args[1]), "per_address"] == list(Limits.model_fields)


@pytest.mark.parametrize(
    ("written", "key"),
    [("max_head_line_bytes: 32KiB", "max_head_line_bytes"), ("max_head_bytes: 4KiB", "max_head_bytes")],
)
def test_a_line_is_a_part_of_the_head(written: str, key: str) -> None:
    """The key that is written is the one that is reported."""
    (problem,) = wrong(LISTENERS + ROUTES + f"limits: {{{written}}}\n")

    assert (problem.code, problem.setting) == ("E013", f"limits.{key}")
    read(LISTENERS + ROUTES + "limits: {max_head_bytes: 4KiB, max_head_line_bytes: 4KiB}\n")


OFF = {"idle", "ping_interval", "write", "max_lifetime"}
ZERO = {"half_close", "drain", "drain_delay", "drain_spread", "retry_after", "lingering"}


@pytest.mark.parametrize("key", Timeouts.model_fields)
def test_what_may_be_off_and_what_may_be_nothing(key: str) -> None:
    """`off` is for waits that may last forever, 0s for those that may be left out, and neither for the others."""
    for written, fitting in (("off", OFF), ("0s", ZERO)):
        text = LISTENERS + ROUTES + f"timeouts: {{{key}: {written}}}\n"
        if key in fitting:
            timeouts = read(text).config.timeouts
            assert getattr(timeouts, key) == (None if written == "off" else 0)
        else:
            (problem,) = wrong(text)
            assert (problem.code, problem.setting) == ("E012", f"timeouts.{key}")


@pytest.mark.parametrize("key", GLOBAL_TIMEOUTS)
def test_what_a_route_may_not_set(key: str) -> None:
    """It is reported with the place where it can be written."""
    routes = ROUTES.replace("auth: none", f"auth: none, timeouts: {{{key}: 1s}}")
    (problem,) = wrong(LISTENERS + routes)

    assert problem.setting == f"routes.vnc.timeouts.{key}"
    assert problem.message.endswith("write it in timeouts at the top")


@pytest.mark.parametrize(
    ("written", "key"), [("drain_spread: 21s", "drain_spread"), ("drain: 4s, drain_spread: 5s", "drain_spread")]
)
def test_spread_is_the_end_of_drain(written: str, key: str) -> None:
    """The key that is written is the one that is reported."""
    (problem,) = wrong(LISTENERS + ROUTES + f"timeouts: {{{written}}}\n")

    assert (problem.code, problem.setting) == ("E013", f"timeouts.{key}")


@pytest.mark.parametrize(("drain", "spread"), [("20s", 5), ("2s", 2), ("0s", 0)])
def test_spread_is_no_longer_than_drain(drain: str, spread: float) -> None:
    """Its default follows a shorter drain."""
    assert read(LISTENERS + ROUTES + f"timeouts: {{drain: {drain}}}\n").config.timeouts.drain_spread == spread
    assert summaries(wrong(LISTENERS + ROUTES + "timeouts: {drain: 20}\n")) == ["E012 timeouts.drain"]


def test_retry_after_is_in_whole_seconds() -> None:
    """As the header is."""
    assert read(LISTENERS + ROUTES + "timeouts: {retry_after: 1m}\n").config.timeouts.retry_after == 60
    (problem,) = wrong(LISTENERS + ROUTES + "timeouts: {retry_after: 1500ms}\n")
    assert problem.setting == "timeouts.retry_after"


def client_section(text: str) -> str:
    """A whole file with these limits."""
    return LISTENERS + ROUTES + f"limits: {{per_address: {{{text}}}}}\n"


@pytest.mark.parametrize(
    ("key", "fit", "unfit"),
    [
        ("connections", ["1", "100000", "off"], ["0", "-1", "many"]),
        ("handshake_rate", ["1", "100000", "off"], ["0", "0.5"]),
        ("handshake_burst", ["1", "1000000"], ["0", "1000001", "off"]),
        ("max_failures", ["1", "100", "off"], ["0"]),
        ("failure_window", ["1s", "1h"], ["0s", "60", "off"]),
        ("ban_time", ["1s", "1d"], ["0s", "300", "off"]),
        ("table_size", ["16", "4194304"], ["15", "4194305", "off"]),
        ("exempt", ["[]", "[unix]", "[10.0.0.0/8, '::1']"], ["10.0.0.0/8", "[10.0.0.1/8]", "[loopback]"]),
    ],
)
def test_client_limit_bounds(key: str, fit: list[str], unfit: list[str]) -> None:
    """The values at the edges are accepted, those beyond are one error at their key."""
    for value in fit:
        read(client_section(f"{key}: {value}"))
    for value in unfit:
        (problem,) = wrong(client_section(f"{key}: {value}"))
        assert problem.setting.startswith(f"limits.per_address.{key}")


def test_every_client_limit_has_its_bounds_here() -> None:
    """No key is forgotten above."""
    (mark,) = (mark for mark in test_client_limit_bounds.pytestmark if mark.name == "parametrize")
    assert [key for key, _, _ in mark.args[1]] == list(ClientLimits.model_fields)


def test_loopback_is_exempt_by_default() -> None:
    """A proxy on this host would get everybody banned."""
    assert [str(network) for network in ClientLimits().exempt] == ["127.0.0.0/8", "::1/128", "unix"]
    assert read(client_section("exempt: []")).config.limits.per_address.exempt == ()


@pytest.mark.parametrize(
    "text",
    [
        "handshake_rate: off, handshake_burst: 5",
        "max_failures: off, failure_window: 1m",
        "max_failures: off, ban_time: 1m",
    ],
)
def test_details_of_a_limit_that_is_off_are_rejected(text: str) -> None:
    """What is off has no details."""
    (problem,) = wrong(client_section(text))
    assert summaries([problem])[0].startswith("E013 limits.per_address.")


def route_section(text: str) -> str:
    """A whole file with a route that has these limits."""
    return LISTENERS + f"routes: {{r: {{match: any, backend: 'tcp://a:1', auth: none, limits: {{{text}}}}}}}\n"


@pytest.mark.parametrize(
    ("key", "fit", "unfit"),
    [
        ("connections", ["1", "off"], ["0", "all"]),
        ("connections_per_identity", ["1", "off"], ["0"]),
        ("connections_per_token", ["1", "off"], ["0"]),
        ("bytes_per_second", ["1024", "64KiB", "1GiB", "off"], ["1023", "0", "64KB", "fast"]),
        ("identity_bytes_per_second", ["1KiB", "off"], ["1000"]),
    ],
)
def test_route_limit_bounds(key: str, fit: list[str], unfit: list[str]) -> None:
    """The values at the edges are accepted, those beyond are one error at their key."""
    for value in fit:
        read(route_section(f"{key}: {value}"))
    for value in unfit:
        (problem,) = wrong(route_section(f"{key}: {value}"))
        assert problem.setting == f"routes.r.limits.{key}"


def test_routes_are_not_limited_by_default() -> None:
    """A route without limits counts nothing."""
    assert RouteLimits().needs_no_counting
    assert RouteLimits(bytes_per_second=2048).needs_no_counting
    for key in RouteLimits.model_fields.keys() - {"bytes_per_second"}:
        assert not RouteLimits(**{key: 2048}).needs_no_counting


def test_only_a_backend_has_limits() -> None:
    """Files and fixed answers have none."""
    text = LISTENERS + "routes: {r: {match: any, respond: 204, limits: {connections: 1}}}\n"
    assert summaries(wrong(text)) == ["E013 routes.r.limits"]


def test_a_pause_of_accepting_is_shorter_than_a_check_of_the_watchdog() -> None:
    """A longer one would look like a listener that hangs."""
    text = LISTENERS + ROUTES
    assert read(f"{text}timeouts: {{accept_pause: 10s}}\n").config.timeouts.accept_pause == 10
    (problem,) = wrong(f"{text}timeouts: {{accept_pause: 11s}}\n")
    assert (problem.setting, problem.message) == ("timeouts.accept_pause", "must not be more than 10s")
