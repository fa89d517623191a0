"""The wheel and the source distribution of this tree, built once."""

from __future__ import annotations

import pytest

from tests.package import builds


@pytest.fixture(scope="session")
def distributions(tmp_path_factory, worker_id):
    """A directory with both."""
    own = tmp_path_factory.getbasetemp()
    return builds.distributions(own if worker_id == "master" else own.parent)


@pytest.fixture(scope="session")
def wheel(distributions):
    """The wheel."""
    (path,) = distributions.glob("*.whl")
    return path
