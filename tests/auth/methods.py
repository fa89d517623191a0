"""Authentication methods that answer what a test wants, and clients that ask."""

from __future__ import annotations

import socket

from wsbridge.auth.base import Authenticator, AuthServices
from wsbridge.auth.identity import Identity
from wsbridge.config.base import AuthSection
from wsbridge.context import ConnectionContext
from wsbridge.net.address import Peer
from wsbridge.protocol.http1 import Headers, Request
from wsbridge.reasons import Rejected


class Says(AuthSection):
    """A section that holds its answer."""

    kind: str = "says"
    answer: object = None
    http: bool = True
    cookies: bool = False
    certificate: bool = False

    def needs_request(self) -> bool:
        """Say what the test says."""
        return self.http

    def needs_certificate(self) -> bool:
        """Say what the test says."""
        return self.certificate

    def accepts_cookies(self) -> bool:
        """Say what the test says."""
        return self.cookies


class Saying:
    """A method that gives its answer and counts how often it was asked."""

    def __init__(self, answer: Identity | Rejected) -> None:
        self.answer = answer
        self.asked = 0

    async def identify(self, caller: ConnectionContext) -> Identity:
        """Give the answer."""
        self.asked += 1
        if isinstance(self.answer, Rejected):
            raise self.answer
        return self.answer


def auth_services(*answers: Identity | Rejected) -> tuple[AuthServices, list[Saying]]:
    """Give the services of a method that contains others: each build gives the next answer."""
    methods = [Saying(answer) for answer in answers]
    rest = iter(methods)

    def build(section: AuthSection) -> Authenticator:
        return next(rest)

    return AuthServices(build), methods


def caller(*lines: tuple[bytes, bytes], target: str = "/", method: str = "GET", **facts: object) -> ConnectionContext:
    """Give somebody who asks with these header lines."""
    request = Request(method, target, "1.1", Headers([(b"host", b"gw.example.org"), *lines]))
    peer = Peer("203.0.113.7", 52044, socket.AF_INET)
    return ConnectionContext(**{"peer": peer, "request": request, "route": "app", **facts})
