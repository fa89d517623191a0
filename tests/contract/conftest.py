"""Every test here runs on every engine."""

from pathlib import Path

import pytest

from tests.contract.sides import running
from wsbridge import native
from wsbridge.relay.engine import PythonEngine

HERE = Path(__file__).parent
ENGINES = [PythonEngine]

if native.load() is not None:
    from wsbridge.native.engine import NativeEngine

    class TwoThreads(NativeEngine):
        """The native engine, with two threads."""

        def __init__(self, max_lingering: int = 256) -> None:
            super().__init__(2, max_lingering)

    ENGINES.append(TwoThreads)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what no configuration gives: TLS of the native engine with the relay of the Python engine alone."""
    both = [item for item in items if item.path.parent == HERE and _parameters(item) >= {"python", "rustls"}]
    if both:
        config.hook.pytest_deselected(items=both)
        items[:] = [item for item in items if item not in set(both)]


def _parameters(item: pytest.Item) -> set[str]:
    return set(item.name.rpartition("[")[2].rstrip("]").split("-"))


@pytest.fixture(params=ENGINES, ids=lambda make: make.name)
async def engine(request):
    """An engine that runs, and must have nothing left in the end."""
    async with running(request.param) as engine:
        yield engine
