"""The engine that relays in Rust, with the rules of the Python engine."""

from __future__ import annotations

from wsbridge.relay.engine import PythonEngine


class NativeEngine(PythonEngine):
    """See `wsbridge.relay.engine.Engine`.

    Args:
        threads: How many threads relay.
        max_lingering: See `PythonEngine`.
    """

    name = "native"

    def __init__(self, threads: int, max_lingering: int = 256) -> None:
        super().__init__(max_lingering)
        self.threads = threads
