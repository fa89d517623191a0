"""Resumable sessions of clients: what keeps them while their clients are away.

Reading order: `first_frame` (what a client wants), `store` (all sessions, how many may wait for their clients, which
one a client may resume), `session` (one of them). Its bytes are relayed by `relay.session_relay`, and what is sent to
the client is up to `protocol.resume_server`. `handover` and `saved_state` are how sessions go on in the next process.
"""
