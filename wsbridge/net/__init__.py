"""Sockets and what is done to them before the relay: names, dialling, TLS, proxies, wires.

Reading order: `address`, `sockets`, `resolve`, `dial`, `retry`, `tls`, `proxy`, `proxy_connect`, `wire`.
"""
