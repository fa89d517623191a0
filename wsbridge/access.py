"""Access: who is it that asks for a route, and may he use it.

Lives here: asking the route's way of authentication, and what its answer becomes. Must not live here: any one way
(`auth`), the checks that need nobody's identity (`admit`).
"""

from __future__ import annotations

import time

import trio

from wsbridge.auth.auth import Auth
from wsbridge.auth.caller import Caller
from wsbridge.auth.identity import Denied, Identity
from wsbridge.limits.visit import Visit
from wsbridge.protocol.head import Request
from wsbridge.reasons import End, Reason


async def authenticate(auth: Auth, caller: Caller, visit: Visit) -> Identity | End:
    """Find out who a client is.

    Args:
        auth: The route's way of authentication.
        caller: Who asks for what.
        visit: Where a failed login is counted.

    Returns:
        Who he is, or how his connection ends. Whatever was wrong, he is told the same.
    """
    found = await auth.identify(caller)
    if isinstance(found, Denied):
        if found.tried:
            visit.fail()
        return End(
            found.reason,
            "bridge" if found.reason in (Reason.AUTH_UNAVAILABLE, Reason.OVERLOAD) else "front",
            found.detail,
            headers=tuple(("WWW-Authenticate", value) for value in found.challenges),
        )
    if found.by_cookie and not _same_page(caller.request):
        return End(Reason.ORIGIN, "front", "a cookie proves nothing without an Origin, which the request has not")
    return found


def _same_page(request: Request | None) -> bool:
    """Tell whether a request names the page that it comes from; that this page may connect was judged before.

    A plain GET or HEAD does nothing that another page could want, and that page cannot read the answer.
    """
    if request is None:
        return False
    if request.method in ("GET", "HEAD") and not request.headers.has_token(b"upgrade", b"websocket"):
        return True
    return b"origin" in request.headers


def ends_at(identity: Identity) -> float | None:
    """Give when an identity ends, by the loop's clock: later steps of the wall clock move it no more."""
    if identity.expires is None:
        return None
    return trio.current_time() + identity.expires - time.time()
