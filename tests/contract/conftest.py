"""Every test here runs on every engine."""

import pytest

from tests.contract.sides import running
from wsbridge import native
from wsbridge.relay.engine import PythonEngine

ENGINES = [PythonEngine]

if native.load() is not None:
    from wsbridge.native.engine import NativeEngine

    class TwoThreads(NativeEngine):
        """The native engine, with two threads."""

        def __init__(self, max_lingering: int = 256) -> None:
            super().__init__(2, max_lingering)

    ENGINES.append(TwoThreads)


@pytest.fixture(params=ENGINES, ids=lambda make: make.name)
async def engine(request):
    """An engine that runs, and must have nothing left in the end."""
    async with running(request.param) as engine:
        yield engine
