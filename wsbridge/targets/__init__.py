"""Targets that clients choose: which one it is, and whether it may be dialled.

Reading order: `host_port` (how a host and a port are written), `request` (what a request says), `template` and `tokens`
(two ways from that to a target), `allowed` (the rules), `sockets` (those of them that need the file system), `choice`
(what the spine calls). Must not live here: dialling (`backends`), who a client is (`auth`).
"""
