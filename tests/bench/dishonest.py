"""A WebSocket server that does to each message what its argument says: `dishonest.py change|refuse PORT...`."""

import http
import sys
import threading

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve


def change(client: ServerConnection) -> None:
    """Send each message back with its last byte changed."""
    try:
        for message in client:
            assert isinstance(message, bytes)
            client.send(message[:-1] + bytes([message[-1] ^ 1]))
    except ConnectionClosed:
        pass


def refuse(client: ServerConnection, request: Request) -> Response:
    """Take no connection."""
    return client.respond(http.HTTPStatus.FORBIDDEN, "no\n")


kind, *ports = sys.argv[1:]
for port in ports:
    server = serve(change, "127.0.0.1", int(port), process_request=refuse if kind == "refuse" else None)
    threading.Thread(target=server.serve_forever).start()
