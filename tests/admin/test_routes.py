"""The admin API's routes: counters that include open connections, and why connections ended."""

from __future__ import annotations

from tests.admin.test_connections import operated
from tests.client import request


async def test_open_connections_are_counted(tmp_path):
    """Their bytes are in the route's as soon as they are relayed, once, and reasons follow when they end."""
    async with operated(tmp_path) as (admin, back):
        first = await admin.served.upgraded()
        await first.echoed(b"12345")
        second = await admin.served.upgraded()
        await second.echoed(b"123")
        (route,) = await admin.json("GET", "/v1/routes")
        assert route == {
            "route": "app",
            "backend": back.url,
            "active": 2,
            "relayed": 2,
            "rejected": 0,
            "bytes_to_backend": 8,
            "bytes_to_client": 8,
            "reasons": {},
        }
        await first.echoed(b"6")
        await first.close()
        await second.close()
        await admin.served.quiet()
        (route,) = await admin.json("GET", "/v1/routes")
        assert (route["active"], route["bytes_to_backend"], route["bytes_to_client"]) == (0, 9, 9)
        assert route["reasons"] == {"client_closed": 2}


async def test_rejections_have_reasons(tmp_path):
    """The most frequent first."""
    async with operated(tmp_path) as (admin, _):
        for origin in ("https://a.example", "https://b.example"):
            rejected = await admin.served.connect()
            await rejected.send(request("/", f"Origin: {origin}"))
            assert (await rejected.head()).startswith("HTTP/1.1 403")
            rejected.drop()
        client = await admin.served.upgraded()
        await client.close()
        await admin.served.quiet()
        (route,) = await admin.json("GET", "/v1/routes")
        assert (route["rejected"], route["relayed"]) == (2, 1)
        assert list(route["reasons"].items()) == [("origin_not_allowed", 2), ("client_closed", 1)]
