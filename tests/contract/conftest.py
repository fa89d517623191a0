"""Every test here runs on every engine."""

import pytest

from tests.contract.sides import running
from wsbridge.native.engine import NativeEngine
from wsbridge.relay.engine import PythonEngine


class TwoThreads(NativeEngine):
    """The native engine, with two threads."""

    def __init__(self) -> None:
        super().__init__(threads=2)


ENGINES = [PythonEngine, TwoThreads]


@pytest.fixture(params=ENGINES, ids=lambda make: make.name)
async def engine(request):
    """An engine that runs, and must have nothing left in the end."""
    async with running(request.param) as engine:
        yield engine
