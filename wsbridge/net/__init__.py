"""Network I/O of connections before and below the relay.

Reading order: `address`, `listeners`, `transport` (bytes of one socket), `tls`, `tls_transport` and `tls_roles`; then
what dials: `resolver`, `dialer`, `http_proxy`, `disconnect` (clients that disconnect during a dial). `http_client` asks
services.
"""
