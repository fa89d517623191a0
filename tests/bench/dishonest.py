"""A WebSocket server that does to each message what its argument says: `dishonest.py KIND PORT...`.

Kinds: `change` sends back other bytes, `refuse` rejects every connection, `late` takes half a second for each message,
`mute` never answers, and `cut` echoes over TLS and ends connections without a close_notify, as some servers do.
"""

import http
import os
import ssl
import sys
import threading
import time

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve


def change(client: ServerConnection) -> None:
    """Send each message back, changed, late or not at all if that is what was asked for."""
    try:
        for message in client:
            assert isinstance(message, bytes)
            if kind == "mute":
                continue
            if kind == "late":
                time.sleep(0.5)
            client.send(message[:-1] + bytes([message[-1] ^ (kind == "change")]))
    except ConnectionClosed:
        pass


def refuse(client: ServerConnection, request: Request) -> Response:
    """Reject every connection."""
    return client.respond(http.HTTPStatus.FORBIDDEN, "no\n")


kind, *ports = sys.argv[1:]
context = None
if kind == "cut":
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(os.environ["LAB"] + "/cert.pem", os.environ["LAB"] + "/key.pem")
servers = [
    threading.Thread(
        target=serve(
            change, "127.0.0.1", int(port), ssl=context, process_request=refuse if kind == "refuse" else None
        ).serve_forever
    )
    for port in ports
]
for server in servers:
    server.start()
for server in servers:
    server.join()  # since Python 3.12 no thread can start once the main thread has ended
