"""The time of a rejection does not reveal which user names exist."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import bcrypt
import pytest

from tests.auth.methods import auth_services, caller
from tests.rejections import async_outcome
from wsbridge.auth import passwords
from wsbridge.auth.basic import BasicAuth, BasicConfig
from wsbridge.auth.identity import ANONYMOUS
from wsbridge.reasons import Rejected

TRIES = 200


def hashes(kind: str) -> list[str]:
    """Give hashes of some users."""
    if kind == "bcrypt":
        return [bcrypt.hashpw(b"right", bcrypt.gensalt(8)).decode() for _ in range(3)]
    return [passwords.hash_password(b"right", ln=13).text for _ in range(3)]


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["scrypt", "bcrypt"])
@pytest.mark.parametrize("password", [b"wrong", b"w" * 100], ids=["short", "long"])
async def test_unknown_users_take_as_long_as_known_ones(kind: str, password: bytes, tmp_path: Path) -> None:
    """The medians of interleaved tries are within 15 %."""
    import base64

    file = tmp_path / "users"
    file.write_text("".join(f"user{number}:{text}\n" for number, text in enumerate(hashes(kind))))
    auth = BasicAuth(BasicConfig(users=file), auth_services(ANONYMOUS)[0])
    taken: dict[str, list[float]] = {"user0": [], "nobody": []}
    for _ in range(TRIES):
        for name, times in taken.items():
            header = b"Basic " + base64.b64encode(name.encode() + b":" + password)
            began = time.perf_counter()
            assert isinstance(await async_outcome(auth.identify(caller((b"authorization", header)))), Rejected)
            times.append(time.perf_counter() - began)
    known, unknown = (statistics.median(times) for times in taken.values())
    print(f"{kind}: known {known * 1e3:.2f} ms, unknown {unknown * 1e3:.2f} ms")  # noqa: T201  seen by pytest -s
    assert unknown == pytest.approx(known, rel=0.15)
