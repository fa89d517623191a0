"""What `--version` tells: all that a report of a fault should have.

Lives here: the facts. Must not live here: measuring or trying anything.
"""

from __future__ import annotations

import platform
import ssl

from wsbridge import __version__
from wsbridge.protocol.mask import NATIVE
from wsbridge.relay.engine import PythonEngine


def facts() -> str:
    """Give the lines of `--version`."""
    masking = "C" if NATIVE else "Python, which is slow: install websockets with its speedups"
    return "\n".join(
        (
            f"wsbridge {__version__}",
            f"engine:  {PythonEngine.name}, masking in {masking}",
            f"Python:  {platform.python_version()} ({platform.python_implementation()})",
            f"OpenSSL: {ssl.OPENSSL_VERSION}",
            f"system:  {platform.system()} {platform.release()} {platform.machine()}",
        )
    )
