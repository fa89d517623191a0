"""Limits: how much one client may have, so that he does not take what is there for all.

Reading order: `addresses` (what each address did lately), `visit` (one connection's place among them), `counts`
(connections by route, identity and token), `bucket` (bytes a second), `shares` (buckets that several connections
draw from), `meter` (what one direction of a connection may carry now).
"""
