"""Start libwsrx with a server for each service; it has no command of its own."""

import asyncio
import os

import libwsrx


async def main() -> None:
    """Serve until it is ended."""
    ports = [(os.environ[f"LISTEN_{name}"], os.environ[f"BACKEND_{name}"]) for name in ("ECHO", "SOURCE", "SINK")]
    await asyncio.gather(*(libwsrx.run_server(f"127.0.0.1:{a}", f"127.0.0.1:{b}") for a, b in ports))


asyncio.run(main())
