"""Routes with their counters: `/v1/routes` of the admin API."""

from __future__ import annotations

import json
from collections import Counter
from http import HTTPStatus

from wsbridge.admin.http import AdminRequest, AdminResponse
from wsbridge.admin.long_lists import Turns
from wsbridge.generation import Route
from wsbridge.server import Server


class RoutesApi:
    """Lists routes.

    Args:
        server: Whose they are.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    async def get(self, request: AdminRequest) -> AdminResponse:
        """List the routes of the newest generation, each in a line, with the bytes of open connections counted in."""
        await self._server.acceptor.count_bytes()
        turns = Turns()
        lines = []
        for route in self._server.generation.routes.values():
            lines.append(json.dumps(_describe(route)))
            await turns.share()
        text = "[\n  " + ",\n  ".join(lines) + "\n]\n" if lines else "[]\n"
        return AdminResponse(HTTPStatus.OK, text, "application/json")


def _describe(route: Route) -> dict[str, object]:
    stats = route.stats
    reasons: Counter[str] = Counter()
    for (reason, _), count in stats.closed.items():
        reasons[reason] += count
    for (_, reason, _), count in stats.rejections.items():
        reasons[reason] += count
    return {
        "route": route.name,
        "backend": "" if route.backend is None else route.backend.name,
        "active": stats.active,
        "relayed": stats.relayed,
        "rejected": stats.rejected,
        "bytes_to_backend": stats.bytes_to_backend,
        "bytes_to_client": stats.bytes_to_client,
        "reasons": dict(reasons.most_common()),
    }
