"""For all tests: order, signals as they are by default, how many examples hypothesis tries, certificates, leaks."""

from __future__ import annotations

import gc
import os
import signal
import sys
from itertools import islice
from pathlib import Path

import pytest
import trustme
from hypothesis import settings

from tests import serving
from wsbridge.generation import Generation

settings.register_profile("test", max_examples=150, deadline=None, derandomize=True)
settings.register_profile("fuzz", max_examples=20_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))

# Tests start the program hundreds of times: without bytecode, each start would compile all of it again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Programs that tests start inherit what is ignored; under nohup, or in the background of a shell, that is these two.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

HERE = Path(__file__).parent
LONG = {"package", "clients", "process", "bench", "cli", "conf", "fuzz"}
"""Directories whose tests take seconds rather than milliseconds, most of them because they start programs."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin each worker's share with modules of long tests, so that no worker waits for another in the end."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers == 1:
        return
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if item.path.relative_to(HERE).parts[0] in LONG:
            modules.setdefault(item.path, []).append(item)
    short = iter([item for item in items if item.path not in modules])
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        # --dist worksteal gives each worker as many of those that are left as the others will get.
        size = (len(items) - len(ordered)) // (workers - worker)
        share = [item for module in list(modules.values())[worker::workers] for item in module]
        ordered += [*share, *islice(short, max(0, size - len(share)))]
    items[:] = [*ordered, *short]


@pytest.fixture(scope="module", autouse=True)
def _nothing_keeps_what_has_ended(request):
    """Fail the last test of a module that leaves a generation, to which every connection refers.

    A reference cycle through the native engine is not seen by the garbage collector, and would be kept for ever.
    """
    before = serving.served_configurations
    yield
    if serving.served_configurations == before or request.session.testsfailed:  # a traceback keeps what it refers to
        return
    gc.unfreeze()  # a daemon may have run in this process
    gc.collect()
    left = [kept for kept in gc.get_objects() if type(kept) is Generation]
    assert not left, f"{len(left)} of {serving.served_configurations - before} configurations are kept after their end"


@pytest.fixture(scope="session")
def authority():
    """A certificate authority."""
    return trustme.CA()


@pytest.fixture(scope="session")
def issue(authority, tmp_path_factory):
    """Make files of a certificate for names: (cert, key) paths."""

    def make(*names, **options):
        folder = tmp_path_factory.mktemp("certificate")
        cert = authority.issue_cert(*names, **options)
        cert.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        cert.private_key_pem.write_to_path(folder / "key.pem")
        return folder / "cert.pem", folder / "key.pem"

    return make


@pytest.fixture(scope="session")
def ca_file(authority, tmp_path_factory):
    """PEM file of the authority."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path
