"""Network I/O of connections before and below the relay.

Reading order: `address`, `listeners`, `transport` (bytes of one socket), `tls` and `tls_transport`; then what dials:
`resolver`, `dialer`, `http_proxy`, `disconnect` (clients that disconnect during a dial). `http_client` asks services.
"""
