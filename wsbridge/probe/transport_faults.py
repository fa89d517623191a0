"""Why a name lookup, a connection attempt, a proxy or a TLS handshake fails, and what to change."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import Final

from wsbridge.probe.steps import Diagnosis, ProbeStep
from wsbridge.reasons import Reason, Rejected

_STATUS_IN_DETAIL: Final = re.compile(r" answered ([1-5][0-9]{2})\b")


def diagnose_dns(host: str, error: OSError) -> Diagnosis:
    """Say why a name cannot be resolved."""
    if error.errno == socket.EAI_AGAIN:
        return Diagnosis(
            ProbeStep.DNS,
            "The DNS server of this host does not answer, or not for this name.",
            ("Check the name servers of this host: /etc/resolv.conf, resolvectl status", f"getent hosts {host}"),
        )
    return Diagnosis(
        ProbeStep.DNS,
        f"The name {host} does not exist, or has no address.",
        (
            "Check the spelling of the name in the URL",
            f"Add an A or AAAA record for {host} to the zone of its domain (dig {host}), or an entry in /etc/hosts",
            "Names of an internal network need its DNS server (VPN): /etc/resolv.conf, resolvectl status",
        ),
    )


def diagnose_tcp(host: str, port: int, failures: Sequence[Rejected | None]) -> Diagnosis:
    """Say why none of the addresses can be connected to.

    Args:
        host: Name or address.
        port: Port.
        failures: Of each attempt; None where nothing came back.
    """
    if any(one is None or one.reason is Reason.BACKEND_TIMEOUT for one in failures):
        return Diagnosis(
            ProbeStep.TCP,
            "The SYN was not answered: a firewall drops the packets, or no host has the address.",
            (
                (
                    f"Allow TCP port {port} in the firewall of the server (nft list ruleset, ufw status) "
                    "and in the "
                    "security group of the cloud"
                ),
                f"Check that {host} is the right address, and that the server runs: ping {host}",
                "If only this network is affected, its firewall blocks the port: try port 443, or --proxy URL",
            ),
        )
    reasons = {one.reason for one in failures if one is not None}
    if Reason.BACKEND_REFUSED in reasons:
        return Diagnosis(
            ProbeStep.TCP,
            f"The host answers, but nothing listens on port {port}, or a firewall rejects it.",
            (
                (f"On the server: ss -ltnp 'sport = :{port}' shows what listens; start it (systemctl status wsbridge)"),
                (
                    "wsbridge.yaml: listeners.NAME.bind: 127.0.0.1 and ::1 are reachable from that host "
                    "only; nginx: "
                    "listen; containers: publish the port"
                ),
                "Check the port in the URL",
            ),
        )
    if Reason.BACKEND_DENIED in reasons:
        text = "A rule of this host forbids the connection."
        return Diagnosis(ProbeStep.TCP, text, ("Allow it in the firewall of this host: nft list ruleset, ufw status",))
    return Diagnosis(
        ProbeStep.TCP,
        "There is no route to the host, or a router rejects the packets.",
        (f"ip route get {host}; check VPN, gateway, and IPv6 of this host",),
    )


def diagnose_unix(path: str, rejected: Rejected) -> Diagnosis:
    """Say why a Unix socket cannot be connected to."""
    if rejected.reason is Reason.BACKEND_DENIED:
        return Diagnosis(
            ProbeStep.TCP,
            f"This user may not connect to the socket {path}.",
            (
                f"ls -l {path}: its owner, group and mode decide; add the user to the group (usermod -aG GROUP USER)",
                "wsbridge.yaml: listeners.NAME.mode and owner; systemd: SupplementaryGroups= of the client's service",
            ),
        )
    if rejected.reason is Reason.BACKEND_REFUSED:
        text = f"Nothing listens on the socket {path} any more, or its backlog is full."
        return Diagnosis(
            ProbeStep.TCP, text, ("Start the service again: it left its socket behind (ss -lxp shows who listens)",)
        )
    return Diagnosis(
        ProbeStep.TCP,
        f"There is no socket {path}.",
        (
            "Start the service that makes it (ss -lx lists all), or correct the path",
            "wsbridge.yaml: listeners.NAME.bind: unix:PATH; PrivateTmp= of a systemd service hides sockets in /tmp",
        ),
    )


def diagnose_proxy(text: str, port: int) -> Diagnosis:
    """Say why a proxy opened no tunnel.

    Args:
        text: The sentence of `ProxyConnector`.
        port: Of the target.
    """
    found = _STATUS_IN_DETAIL.search(text)
    status = 0 if found is None else int(found[1])
    off = "If the target needs no proxy: --proxy off, or add it to no_proxy"
    if status == 407:
        remedy = (
            "Write user and password into the URL of the proxy: --proxy http://USER:PASSWORD@HOST:PORT, or https_proxy"
        )
        return Diagnosis(
            ProbeStep.PROXY, "The proxy requires authentication.", (remedy, "wsbridge.yaml: proxy of the backend")
        )
    if status in (403, 405):
        return Diagnosis(
            ProbeStep.PROXY,
            f"The proxy does not allow a tunnel to this target or port ({port}).",
            (f"Have its administrator allow CONNECT to port {port} (Squid: acl SSL_ports and Safe_ports)", off),
        )
    if status in (500, 502, 503, 504):
        text = "The proxy cannot reach the target."
        remedy = (
            "Check name and port of the target as the proxy sees them: its DNS and its firewall, not those of this host"
        )
        return Diagnosis(ProbeStep.PROXY, text, (remedy, off))
    if status:
        text = "The proxy did not open a tunnel: it may be a web server, which does not support CONNECT."
        return Diagnosis(
            ProbeStep.PROXY, text, ("Check host and port of the proxy: --proxy, https_proxy, http_proxy", off)
        )
    return Diagnosis(
        ProbeStep.PROXY,
        "What listens there gives no answer of an HTTP proxy: it is another kind of proxy (SOCKS, https), or none.",
        ("Check host and port of the proxy: --proxy, https_proxy, http_proxy", off),
    )


def diagnose_tls_alert(text: str) -> Diagnosis:
    """Say what an alert of a server means.

    Args:
        text: The sentence about it, with OpenSSL's words.
    """
    if "certificate" in text and "accept" in text:
        return Diagnosis(
            ProbeStep.TLS,
            "The server demands a client certificate (mTLS), and got none or one that it does not trust.",
            (
                "For this command: --client-cert FILE --client-key FILE",
                "wsbridge as the client: client_certificate of the backend",
                (
                    "On the server: wsbridge.yaml: listeners.NAME.tls.client_ca has to hold the authority "
                    "that issued it; "
                    "nginx: ssl_client_certificate, ssl_verify_client; HAProxy: bind … ca-file … verify required"
                ),
            ),
        )
    if "protocol version" in text or "unsupported protocol" in text:
        return Diagnosis(
            ProbeStep.TLS,
            "The server supports no TLS version in common with this client, which requires 1.2 or later.",
            (
                (
                    "Update the server: wsbridge.yaml: min_version of the listener's tls; nginx: ssl_protocols "
                    "TLSv1.2 TLSv1.3"
                ),
            ),
        )
    if "no application protocol" in text:
        return Diagnosis(
            ProbeStep.TLS,
            "The server does not accept HTTP/1.1 (ALPN), which WebSocket clients without HTTP/2 speak.",
            ("nginx, HAProxy: alpn must have http/1.1; or the port is one of another protocol",),
        )
    if "unrecognized name" in text:
        return Diagnosis(
            ProbeStep.TLS,
            "The server has no certificate for this name (SNI).",
            (
                "Add the name to its certificates: wsbridge.yaml: listeners.NAME.tls.certificates; nginx: server_name",
                "--server-name NAME sends another name",
            ),
        )
    return Diagnosis(
        ProbeStep.TLS,
        "The server rejected the handshake: no TLS version or cipher in common, no certificate for this name, or it "
        "demands a client certificate.",
        (
            "See the log of the server (wsbridge: tls_failed)",
            "Try --server-name NAME, and --client-cert FILE if it demands one",
            "wsbridge.yaml: ciphers and min_version of the listener's tls; nginx: ssl_ciphers, ssl_protocols",
        ),
    )
