"""Limits on what one client may use.

`clients`: connections, handshakes, failed logins and bans of each address, and connections by route, identity and
token. `rate`: bandwidth, by token buckets.
"""
