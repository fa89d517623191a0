"""For all tests: how many examples hypothesis tries."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("test", max_examples=300, deadline=None, derandomize=True)
settings.register_profile("fuzz", max_examples=20_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))
