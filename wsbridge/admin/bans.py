"""Bans of client addresses as operators see and lift them: `/v1/bans` of the admin API."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final
from urllib.parse import unquote

from wsbridge.admin.http import AdminRequest, AdminResponse, error_response
from wsbridge.admin.long_lists import JsonPieces, Turns
from wsbridge.limits.clients import ClientTable, banned_address
from wsbridge.log.logger import log

BANS_PATH: Final = "/v1/bans"


def parse_banned(text: str) -> str:
    """Parse an address, or what a listing has for one: `192.0.2.7`, `2001:db8:1:2::/64`, `unix`.

    Returns:
        The host, as `Peer.host` has it.

    Raises:
        ValueError: It is neither; one sentence.
    """
    if text == "unix":
        return ""
    host, slash, prefix = text.partition("/")
    try:
        version = ip_address(host).version
    except ValueError:
        raise ValueError(f"{json.dumps(text)} is not an address") from None
    if slash and prefix != ("64" if version == 6 else "32"):
        raise ValueError(f"{json.dumps(text)}: a ban is about an IPv4 address or an IPv6 /64")
    return host


class BansApi:
    """Lists and lifts bans.

    Args:
        clients: What has them.
    """

    def __init__(self, clients: ClientTable) -> None:
        self._clients = clients

    async def get(self, request: AdminRequest) -> AdminResponse:
        """List the addresses that are banned now."""
        pieces = JsonPieces()
        await pieces.add_list("bans", self._bans(), Turns())
        return AdminResponse(HTTPStatus.OK, pieces.finish(), "application/json")

    def _bans(self) -> Iterator[str]:
        for key, until in list(self._clients.bans.items()):
            remaining = until - self._clients.clock()
            if remaining > 0 and key in self._clients.bans:
                facts = {"client_address": banned_address(key), "ban_seconds": math.ceil(remaining)}
                yield json.dumps({**facts, "reason": "max_failures"})

    async def delete(self, request: AdminRequest) -> AdminResponse:
        """Lift a ban; an IPv6 address has that of its /64."""
        try:
            host = parse_banned(unquote(request.path.removeprefix(f"{BANS_PATH}/"), errors="replace"))
        except ValueError as error:
            return error_response(HTTPStatus.BAD_REQUEST, str(error))
        lifted = self._clients.lift_ban(host)
        if lifted is None:
            return error_response(HTTPStatus.NOT_FOUND, f"{host or 'unix'} is not banned")
        client_address, remaining = lifted
        log.info("address.unbanned", client_address=client_address, ban_seconds=math.ceil(remaining))
        return AdminResponse(HTTPStatus.OK, json.dumps({"unbanned": client_address}) + "\n", "application/json")
