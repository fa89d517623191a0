"""Requests, paths and rules for the tests of dynamic targets."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

from wsbridge.config.route import AllowedTargetsConfig, read_ports
from wsbridge.config.types import IpNetwork
from wsbridge.protocol.http1 import Headers, Request


def asking(target: str, *cookies: str) -> Request:
    """Give a request for a target, with lines of cookies."""
    lines = [(b"cookie", cookie.encode("latin-1")) for cookie in cookies]
    return Request("GET", target, "1.1", Headers([(b"host", b"gw.example.org"), *lines]))


def rules(**written: Any) -> AllowedTargetsConfig:
    """Give `allowed_targets:` as a file would have it."""
    networks: list[IpNetwork] = [ip_network(each) for each in written.pop("networks", ())]
    facts: dict[str, Any] = {"networks": tuple(networks)} if networks else {}
    if "ports" in written:
        facts["ports"] = tuple(read_ports(each) for each in written.pop("ports"))
    if "unix" in written:
        facts["unix"] = tuple(Path(each) for each in written.pop("unix"))
    rest = {key: tuple(value) if isinstance(value, list) else value for key, value in written.items()}
    return AllowedTargetsConfig.model_construct(**facts, **rest)  # also what a file may not say
