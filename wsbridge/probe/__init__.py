"""`wsbridge probe`: the path of a client, step by step, until one fails, with its cause and what to change.

Reading order: `steps`, what is reported; `options`, what is asked for; `walk`, the order of the steps; `transport_path`
(name lookup, TCP, proxy, TLS) with `certificates`; `transport_faults`, why those fail; `upgrade`, the HTTP request and
its answer; `answers`, `explanations` and `peers`, what an answer, a reason of wsbridge, a close code or the first bytes
of a peer mean; `session`, an open WebSocket; `idle`, how long it may be idle.
"""
