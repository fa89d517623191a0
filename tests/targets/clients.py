"""Requests, paths and rules for the tests of chosen targets."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

from wsbridge.config.network import AnyNetwork
from wsbridge.config.targets import Targets, read_ports
from wsbridge.protocol.head import Headers, Request


def asking(target: str) -> Request:
    """Give a request for a target."""
    return Request("GET", target, "1.1", Headers([(b"host", b"gw.example.org")]))


def rules(**written: Any) -> Targets:
    """Give `targets:` as a file would have it."""
    networks: list[AnyNetwork] = [ip_network(each) for each in written.pop("networks", ())]
    facts: dict[str, Any] = {"networks": tuple(networks)} if networks else {}
    if "ports" in written:
        facts["ports"] = tuple(read_ports(each) for each in written.pop("ports"))
    if "unix" in written:
        facts["unix"] = tuple(Path(each) for each in written.pop("unix"))
    rest = {key: tuple(value) if isinstance(value, list) else value for key, value in written.items()}
    return Targets.model_construct(**facts, **rest)  # also what a file may not say
