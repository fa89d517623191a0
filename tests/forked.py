"""Starts wsbridge as forks of a process that has imported it: most tests need less time than its imports.

`Popen` and `run` are those of subprocess, but `python -m wsbridge …` becomes a fork of a process that this one keeps
for it. From there it is the same program: a process of its own and a child of this one, with the arguments, directory,
environment, descriptors and limits that it was given, and with streams and an end as Python makes them. What changes
how Python itself starts is started as ever: another command before it (`sh -c "ulimit …"`), variables of Python or of
the C library, a new session. So is everything with WSBRIDGE_TEST_EXEC=1, as under `make soak`.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import importlib.util
import io
import json
import os
import pkgutil
import random
import resource
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

MODULE = (sys.executable, "-m", "wsbridge")
AT_START = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_", "OPENSSL_", "SSL_", "TZ", "COVERAGE_")
"""Beginnings of variables that Python or a library reads when it starts."""
PR_SET_CHILD_SUBREAPER = 36
LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
LARGEST = 1 << 17
"""Bytes of a request, which has the environment."""
HIGH = 200
"""Received descriptors are moved here first, out of the way of the numbers that they are to have."""


class Popen(subprocess.Popen[Any]):
    """A process, forked if it is wsbridge; see above."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: bool, *others: Any) -> None:
        pass_fds, cwd, env, _, _, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *rest = others
        plain = tuple(rest) in ((True, None, None, None, -1, False), (True, None, None, None, -1, False, -1))
        forks = plain and close_fds and executable is None and preexec_fn is None and not shell
        if not forks or not _is_ordinary(args, os.environ if env is None else env):
            super()._execute_child(args, executable, preexec_fn, close_fds, *others)
            return
        streams = {0: p2cread, 1: c2pwrite, 2: errwrite}
        descriptors = {number: number if given == -1 else given for number, given in streams.items()}
        descriptors |= {number: number for number in pass_fds}
        try:
            self.pid = _source().fork(
                list(map(os.fspath, args[3:])),
                dict(os.environ if env is None else env),
                os.fspath(cwd or Path.cwd()),
                descriptors,
            )
            self._child_created = True
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


def run(
    args: Sequence[str | os.PathLike[str]],
    *,
    input: Any = None,  # noqa: A002  as subprocess calls it
    stdin: IO[Any] | int | None = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a program to its end, as `subprocess.run` does."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(args, stdin=subprocess.PIPE if input is not None else stdin, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def _is_ordinary(args: Any, env: Mapping[str, str]) -> bool:
    """Return whether a command is wsbridge in the Python of this process."""
    if os.environ.get("WSBRIDGE_TEST_EXEC") or isinstance(args, str | bytes) or tuple(args[:3]) != MODULE:
        return False
    source = _source()
    changed = {name for name in {*env, *source.environ} if env.get(name) != source.environ.get(name)}
    return not [name for name in changed if name.startswith(AT_START)]


class _Source:
    """The process that is forked, and the connection to it."""

    def __init__(self) -> None:
        # Forks become children of this process when the one between has ended.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.environ = dict(os.environ)
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.forked", str(theirs.fileno())]
            root = Path(__file__).parents[1]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, cwd=root)
        atexit.register(self.close)

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        self._process.wait()

    def fork(self, arguments: list[str], env: dict[str, str], cwd: str, descriptors: Mapping[int, int]) -> int:
        """Start wsbridge; return its process id.

        Args:
            arguments: Those of wsbridge.
            env: Its environment.
            cwd: Its directory.
            descriptors: By the number that it will have, each that it gets.
        """
        request = {
            "arguments": arguments,
            "env": env,
            "cwd": cwd,
            "numbers": list(descriptors),
            "cores": list(os.sched_getaffinity(0)),
            "limits": {number: resource.getrlimit(number) for number in LIMITS},
        }
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode("utf-8", "surrogatepass")], descriptors.values())
            return int(self._socket.recv(LARGEST))


_sources: list[_Source] = []
_making = threading.Lock()


def _source() -> _Source:
    with _making:
        if not _sources:
            _sources.append(_Source())
    return _sources[0]


def _serve(sock: socket.socket) -> list[str]:
    """Fork for each request; return in the forked process, with the arguments of wsbridge."""
    while True:
        text, received, _, _ = socket.recv_fds(sock, LARGEST, 64)
        if not text:
            sys.exit()
        assert threading.active_count() == 1, "a fork would have one thread"
        known, told = os.pipe()
        between = os.fork()
        if between == 0:
            forked = os.fork()
            if forked:
                os.write(told, str(forked).encode())
                os._exit(0)
            os.close(known)
            os.close(told)
            sock.close()
            return _become(json.loads(text.decode("utf-8", "surrogatepass")), received)
        os.close(told)
        os.waitpid(between, 0)
        sock.send(os.read(known, 32))
        for descriptor in (known, *received):
            os.close(descriptor)


def _become(request: dict[str, Any], received: list[int]) -> list[str]:
    """Take what a request gives, and keep nothing that a new process would not have; return the arguments."""
    import fcntl

    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH) for descriptor in received]
    for number, descriptor in zip(request["numbers"], high, strict=True):
        os.dup2(descriptor, number)
    last = 2
    for number in sorted({*request["numbers"], 0, 1, 2, os.sysconf("SC_OPEN_MAX")}):
        if number > last:
            os.closerange(last + 1, number)
        last = number
    os.sched_setaffinity(0, request["cores"])
    for number, limits in request["limits"].items():
        resource.setrlimit(int(number), limits)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    _renew_streams()
    gc.unfreeze()
    for thing in gc.get_objects():
        if isinstance(thing, random.Random):  # trio has one, which all forks would begin with
            thing.seed()
    return list(request["arguments"])


def _renew_streams() -> None:
    """Make the standard streams anew, as Python does when it starts."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        raw = io.FileIO(number, "r" if number == 0 else "w", closefd=False)
        unbuffered = isinstance(old.buffer, io.FileIO)
        buffered: Any = raw if unbuffered else io.BufferedReader(raw) if number == 0 else io.BufferedWriter(raw)
        text = io.TextIOWrapper(
            buffered,
            encoding=old.encoding,
            errors=old.errors,
            newline="\n" if number else None,
            line_buffering=number == 2 or raw.isatty(),
            write_through=unbuffered,
        )
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)


def _import_all() -> None:
    import wsbridge

    has_extension = importlib.util.find_spec("wsbridge.native._native") is not None
    for module in pkgutil.walk_packages(wsbridge.__path__, "wsbridge."):
        if not module.name.endswith("__main__") and (has_extension or not module.name.startswith("wsbridge.native.")):
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()  # so that it stays shared


if __name__ == "__main__":
    _import_all()
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        arguments = _serve(requests)
    sys.argv[1:] = arguments
    runpy.run_module("wsbridge", run_name="__main__", alter_sys=True)
