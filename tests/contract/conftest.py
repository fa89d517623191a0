"""Every test here runs on every engine."""

import pytest

from tests.contract.sides import running
from wsbridge.relay.engine import PythonEngine

ENGINES = [PythonEngine]


@pytest.fixture(params=ENGINES, ids=lambda make: make.name)
async def engine(request):
    """An engine that runs, and must have nothing left in the end."""
    async with running(request.param) as engine:
        yield engine
