"""The admin API's bans: listed with the time that is left, and lifted."""

from __future__ import annotations

import contextlib

import pytest

from tests.admin.test_admin import administered
from tests.client import request
from tests.serving import config_of, written
from wsbridge.limits.clients import client_key


async def test_a_ban_is_listed_and_lifted(tmp_path):
    """A client whose logins failed connects again at once, with all its attempts; the log says what was lifted."""
    users = tmp_path / "users"
    users.write_text("alice:$2b$04$abcdefghijklmnopqrstuuVBmBrNJvQ7Y4Y2iTqYH0E2sWaOgZuKa\n")
    users.chmod(0o600)
    auth = {"kind": "basic", "users": str(users)}
    text = written(
        route={"backend": "tcp://127.0.0.1:1", "auth": auth}, limits={"per_address": {"max_failures": 1, "exempt": []}}
    )
    wrong = request("/", "Authorization: Basic YWxpY2U6d3Jvbmc=")
    async with administered(tmp_path) as admin:
        await admin.served.server.apply(config_of(text))
        assert await admin.json("GET", "/v1/bans") == {"bans": []}
        for count in (1, 2):
            client = await admin.served.connect()
            await client.send(wrong)
            assert (await client.head()).startswith("HTTP/1.1 401 ")
            client.drop()
            await admin.served.records.wait("address.banned", count)
            with contextlib.suppress(OSError):  # reset before connect returned
                (await admin.served.connect()).drop()
            await admin.served.records.wait("connection.banned", count)
            (ban,) = (await admin.json("GET", "/v1/bans"))["bans"]
            assert 290 < ban.pop("ban_seconds") <= 300
            assert ban == {"client_address": "127.0.0.1", "reason": "max_failures"}
            assert await admin.ask("DELETE", "/v1/bans/127.0.0.1") == (200, '{"unbanned": "127.0.0.1"}\n')
            record = await admin.served.records.wait("address.unbanned", count)
            assert (record["level"], record["client_address"]) == ("info", "127.0.0.1")
            assert await admin.json("GET", "/v1/bans") == {"bans": []}
        assert admin.served.records.of("admin.request", path="/v1/bans/127.0.0.1", status=200)
        assert (await admin.ask("DELETE", "/v1/bans/127.0.0.1"))[0] == 404


@pytest.mark.parametrize(
    ("banned", "shown", "lifts"),
    [
        ("2001:db8:1:2::3", "2001:db8:1:2::/64", "2001:db8:1:2:ffff::9"),
        ("2001:db8:1:2::3", "2001:db8:1:2::/64", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::3", "2001:db8:1:2::/64", "2001%3Adb8%3A1%3A2%3A%3A%2F64"),
        ("fe80::1", "fe80::/64", "fe80::7%25eth0"),
        ("192.0.2.7", "192.0.2.7", "::ffff:192.0.2.7"),
        ("192.0.2.7", "192.0.2.7", "192.0.2.7/32"),
        ("", "unix", "unix"),
    ],
)
async def test_what_lifts_a_ban(tmp_path, banned, shown, lifts):
    """Any address of an IPv6 /64, and whatever a listing shows."""
    async with administered(tmp_path) as admin:
        clients = admin.served.server.services.client_table
        clients.bans[client_key("198.51.100.1")] = clients.clock() + 100
        clients.bans[client_key("198.51.100.2")] = clients.clock() - 1  # over
        clients.bans[client_key(banned)] = clients.clock() + 100
        listed = (await admin.json("GET", "/v1/bans"))["bans"]
        assert [one["client_address"] for one in listed] == ["198.51.100.1", shown]
        assert (await admin.ask("DELETE", f"/v1/bans/{lifts}"))[0] == 200
        assert [one["client_address"] for one in (await admin.json("GET", "/v1/bans"))["bans"]] == ["198.51.100.1"]
        assert (await admin.ask("DELETE", "/v1/bans/198.51.100.2"))[0] == 404


@pytest.mark.parametrize("address", ["localhost", "10.0.0.0/8", "2001:db8::/48", "1", "%ff", "192.0.2.7%00", "a/b/c"])
async def test_what_is_no_address(tmp_path, address):
    """400, with the cause."""
    async with administered(tmp_path) as admin:
        status, text = await admin.ask("DELETE", f"/v1/bans/{address}")
        assert status == 400
        assert "address" in text


async def test_only_get_lists_bans(tmp_path):
    """405 for anything else, also for a DELETE of all."""
    async with administered(tmp_path) as admin:
        for method, path in (("DELETE", "/v1/bans"), ("GET", "/v1/bans/192.0.2.7"), ("POST", "/v1/bans")):
            assert (await admin.ask(method, path))[0] == 405
        assert (await admin.ask("DELETE", "/v1/bans/"))[0] == 404
