"""Htpasswd file, bcrypt, scrypt, password checker threads."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass, replace
from typing import Final

import trio

from wsbridge.context import UNKNOWN_CLIENT, ClientGate
from wsbridge.limits.clients import ConnectionCounts
from wsbridge.reasons import Reason, Rejected
from wsbridge.taskless import need_task
from wsbridge.ttl_cache import TtlCache
from wsbridge.worker_thread import NoThreadError, run_in_thread

BCRYPT_COSTS: Final = range(4, 16)
"""Accepted binary logarithms of the cost; 15 is about 3 s for each password that is tried."""
BCRYPT_MAX_PASSWORD_BYTES: Final = 72
"""Bytes of a password that bcrypt looks at; a longer one is never right."""
BCRYPT_DIGEST_LENGTH: Final = 31
"""Characters of the hash itself, at the end."""

_BCRYPT_HASH: Final = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{30}[.CGKOSWaeimquy26]")


@dataclass(frozen=True, slots=True)
class BcryptHash:
    """The hash of one password.

    Attributes:
        text: `$2y$…`, checked by `parse_bcrypt`.
    """

    text: str

    def verify(self, password: bytes) -> bool:
        """Return whether a password is the one; uses a core for long, and releases the GIL while it does.

        One that is too long takes as long as any other.
        """
        import bcrypt

        right = bcrypt.checkpw(password[:BCRYPT_MAX_PASSWORD_BYTES], self.text.encode())
        return right and len(password) <= BCRYPT_MAX_PASSWORD_BYTES

    def dummy_hash(self) -> BcryptHash:
        """Return a hash that is verified at the same cost and that no password has."""
        return replace(self, text=self.text[:-BCRYPT_DIGEST_LENGTH] + "." * BCRYPT_DIGEST_LENGTH)


def parse_bcrypt(text: str) -> BcryptHash:
    """Read a hash.

    Args:
        text: `$2y$…`, `$2b$…` or `$2a$…`.

    Raises:
        ValueError: What is wrong with it; the sentence holds nothing of salt and hash.
    """
    found = _BCRYPT_HASH.fullmatch(text)
    if found is None:
        raise ValueError(f"is damaged: a bcrypt hash has 60 characters of ./A-Za-z0-9 and $, this one has {len(text)}")
    if int(found[1]) not in BCRYPT_COSTS:
        raise ValueError(f"has the cost {int(found[1])}, and it must be from {BCRYPT_COSTS[0]} to {BCRYPT_COSTS[-1]}")
    return BcryptHash(text)


def bcrypt_available() -> bool:
    """Return whether the library is installed."""
    try:
        import bcrypt  # noqa: F401  only whether it is there
    except ImportError:
        return False
    return True


SCRYPT_LN, SCRYPT_R, SCRYPT_P = 15, 8, 1
"""Of new hashes: 32 MiB of memory and about 0.1 s."""
SCRYPT_SALT_BYTES, SCRYPT_DIGEST_BYTES = 16, 32
"""Bytes of new hashes."""
SCRYPT_MIN_WORK: Final = 2**15
"""Smallest cost times block size times parallelization that is accepted; less could be guessed too fast."""
SCRYPT_MAX_WORK: Final = 2**21
"""The largest: about 1 s for each password that is tried."""
SCRYPT_MAX_MEMORY_BYTES: Final = 64 * 1024 * 1024
"""Bytes of memory that verifying may take, for each thread that does it."""

_SCRYPT_HASH: Final = re.compile(
    r"\$scrypt\$ln=([1-9][0-9]?),r=([1-9][0-9]{0,2}),p=([1-9][0-9]{0,2})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})"
)


@dataclass(frozen=True, slots=True)
class ScryptHash:
    """The hash of one password.

    Attributes:
        ln: Binary logarithm of the cost.
        r: Block size.
        p: Parallelization.
        salt: What makes equal passwords differ.
        digest: The hash itself.
    """

    ln: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    @property
    def text(self) -> str:
        """The form that is stored in files."""
        return f"$scrypt$ln={self.ln},r={self.r},p={self.p}${_encode_base64(self.salt)}${_encode_base64(self.digest)}"

    def verify(self, password: bytes) -> bool:
        """Return whether a password is the one; uses a core for long, and releases the GIL while it does."""
        return hmac.compare_digest(_derive(password, self.ln, self.r, self.p, self.salt, len(self.digest)), self.digest)

    def dummy_hash(self) -> ScryptHash:
        """Return a hash that is verified at the same cost and that no password has."""
        return replace(self, digest=bytes(len(self.digest)))


def parse_scrypt(text: str) -> ScryptHash:
    """Read a hash.

    Args:
        text: `$scrypt$…`.

    Raises:
        ValueError: What is wrong with it; the sentence holds nothing of salt and hash.
    """
    found = _SCRYPT_HASH.fullmatch(text)
    if found is None:
        raise ValueError("is damaged: it must be $scrypt$ln=…,r=…,p=…$SALT$HASH")
    ln, r, p = (int(number) for number in found.groups()[:3])
    work, memory = (r * p) << ln, (128 * r) << ln
    if memory > SCRYPT_MAX_MEMORY_BYTES:
        raise ValueError(f"would take {memory} bytes of memory to verify, and the most is {SCRYPT_MAX_MEMORY_BYTES}")
    if not SCRYPT_MIN_WORK <= work <= SCRYPT_MAX_WORK:
        raise ValueError(
            f"has a cost (2^ln * r * p) of {work}, and it must be from {SCRYPT_MIN_WORK} to {SCRYPT_MAX_WORK}"
        )
    if ln >= 16 * r:
        raise ValueError(f"has ln={ln} with r={r}, and ln must be less than 16 * r")
    try:
        made = ScryptHash(ln, r, p, _decode_base64(found[4]), _decode_base64(found[5]))
    except binascii.Error:
        made = None
    if made is None or made.text != text:
        raise ValueError("is damaged: its base64 is not that of any bytes")
    return made


def hash_password(password: bytes, ln: int = SCRYPT_LN, r: int = SCRYPT_R, p: int = SCRYPT_P) -> ScryptHash:
    """Make the hash of a password, with a new salt; uses a core for a long time."""
    salt = secrets.token_bytes(SCRYPT_SALT_BYTES)
    return ScryptHash(ln, r, p, salt, _derive(password, ln, r, p, salt, SCRYPT_DIGEST_BYTES))


def _derive(password: bytes, ln: int, r: int, p: int, salt: bytes, size: int) -> bytes:
    memory = 128 * r * ((1 << ln) + p + 2)
    return hashlib.scrypt(password, salt=salt, n=1 << ln, r=r, p=p, dklen=size, maxmem=memory)


def _encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _decode_base64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


PasswordHash = BcryptHash | ScryptHash
"""The hash of a password, of either kind."""

MAX_HTPASSWD_LINE_LENGTH: Final = 1024
"""Characters of a line."""
MAX_USERNAME_BYTES: Final = 255
"""Bytes of a user's name; htpasswd accepts no longer one."""
NEW_HASH_HINT: Final = 'make a new one by "wsbridge hash-password" or "htpasswd -B"'

_HASH_PARSERS: Final = (
    ("$2a$", parse_bcrypt),
    ("$2b$", parse_bcrypt),
    ("$2y$", parse_bcrypt),
    ("$scrypt$", parse_scrypt),
)
_REJECTED_HASHES: Final = (
    (re.compile(r"\$apr1\$"), "is an MD5 hash (apr1), which is guessed too fast"),
    (re.compile(r"\$1\$"), "is an MD5 hash (md5crypt), which is guessed too fast"),
    (re.compile(r"\{SHA\}", re.IGNORECASE), "is a SHA-1 hash without salt, which is guessed too fast"),
    (re.compile(r"\{SSHA\}", re.IGNORECASE), "is a SHA-1 hash, which is guessed too fast"),
    (re.compile(r"\$2x?\$"), "is a hash of a broken form of bcrypt"),
    (re.compile(r"\$5\$|\$6\$"), "is a SHA-2 hash of crypt(3), which is not supported"),
    (re.compile(r"\$(?:y|gy|7)\$"), "is a yescrypt hash of crypt(3), which is not supported"),
    (re.compile(r"\$argon2"), "is an argon2 hash, which is not supported"),
    (re.compile(r"[./0-9A-Za-z]{13}\Z"), "is a DES hash of crypt(3), which is guessed too fast, or a plain password"),
    (re.compile(r""), "is no hash of a known form; plain passwords are not supported"),
)
"""Other formats, and why each is rejected; the first that matches is reported."""


def parse_htpasswd(text: str) -> dict[str, PasswordHash]:
    """Read a list of users: lines of `name:hash`, empty ones and those that begin with # left out.

    Raises:
        ValueError: What is wrong with it, with the line. No text of it is quoted, no name either: where a colon
            is missing or misplaced, a hash or a password would pass for one.
    """
    users: dict[str, PasswordHash] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MAX_HTPASSWD_LINE_LENGTH:
            raise ValueError(f"line {number}: has {len(line)} characters, and the most is {MAX_HTPASSWD_LINE_LENGTH}")
        entry = line.removesuffix("\r").rstrip(" \t")
        if not entry or entry.lstrip(" \t").startswith("#"):
            continue
        try:
            name, stored = _parse_entry(entry)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if name in users:
            raise ValueError(f"line {number}: has the same user as line {lines[name]}")
        users[name], lines[name] = stored, number
    return users


def check_username(name: str) -> str:
    """Check that a text can be a user's name; give it.

    Raises:
        ValueError: What is wrong with it.
    """
    if not name:
        raise ValueError("a user's name cannot be empty")
    if ":" in name:
        raise ValueError("a user's name cannot have a colon in it")
    if not name.isprintable() or name.strip() != name or name.startswith("#"):
        raise ValueError("a user's name cannot have control characters in it, begin with #, or have spaces around it")
    if len(name.encode()) > MAX_USERNAME_BYTES:
        raise ValueError(f"a user's name of {len(name.encode())} bytes is too long: the most is {MAX_USERNAME_BYTES}")
    return name


def _parse_entry(line: str) -> tuple[str, PasswordHash]:
    name, colon, hashed = line.partition(":")
    if not colon:
        raise ValueError("has no colon: a line is name:hash")
    check_username(name)
    for begin, read in _HASH_PARSERS:
        if hashed.startswith(begin):
            try:
                return name, read(hashed)
            except ValueError as error:
                raise ValueError(f"the hash {error}") from None
    if not hashed:
        raise ValueError(f"the user has no hash: {NEW_HASH_HINT}")
    why = next(why for form, why in _REJECTED_HASHES if form.match(hashed))
    raise ValueError(f"the text after the name {why}: {NEW_HASH_HINT}")


MAX_CACHED_PASSWORDS: Final = 4096
"""Verified pairs that are remembered; beyond that, the oldest is dropped."""
MAX_PASSWORD_CACHE_SECONDS: Final = 3600.0
"""Seconds after which a verified pair is dropped, whatever `cache` is set to."""


class _Pending:
    """One password that is verified, for all clients that present the same one at the same time."""

    __slots__ = ("done", "matches")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.matches: bool | None = None


class PasswordChecker:
    """Verifies passwords in threads.

    A pair that was right is remembered as its HMAC under a key of this process, over the name, the password and the
    stored hash: neither a core dump nor a log gives it away, and a changed hash ends it at once.

    Args:
        threads: Passwords verified concurrently; None for the number of cores.
        max_queue: How many passwords may wait for a thread.
        max_queue_per_address: How many passwords of one client address may be waiting or verified.
    """

    def __init__(self, threads: int | None = None, max_queue: int = 64, max_queue_per_address: int = 8) -> None:
        self._limiter = trio.CapacityLimiter(1)
        self.configure(threads, max_queue, max_queue_per_address)
        self._by_client = ConnectionCounts()
        self._key = secrets.token_bytes(32)
        self._verified: TtlCache[bytes, float] = TtlCache(MAX_CACHED_PASSWORDS)
        self._pending: dict[bytes, _Pending] = {}

    def configure(self, threads: int | None, max_queue: int, max_queue_per_address: int) -> None:
        """Change the limits; the parameters are those of the constructor."""
        self.threads = threads or len(os.sched_getaffinity(0))
        self.max_queue = max_queue
        self.max_queue_per_address = max_queue_per_address
        self._limiter.total_tokens = self.threads

    async def verify(
        self,
        name: str,
        password: bytes,
        stored: PasswordHash,
        cache_seconds: float,
        client: ClientGate = UNKNOWN_CLIENT,
    ) -> bool:
        """Return whether a password is the one that a hash was made of.

        Args:
            name: The user's.
            password: As presented; without NUL.
            stored: The hash.
            cache_seconds: Seconds for which the result of an earlier verification is used.
            client: Who presents it. One that is banned when a thread is free is not verified any more.

        Raises:
            Rejected: Too many passwords wait, of all clients or of this one; no thread; or the client is banned.
        """
        mark = self._cache_key(name, password, stored)
        if self._is_cached(mark, cache_seconds):
            return True
        await need_task()
        if not await client.begin_guess(self.max_queue_per_address):
            raise self._too_many_of_client()
        while not self._is_cached(mark, cache_seconds):
            trial = self._pending.get(mark)
            if trial is None:
                right = await self._verify_in_thread(mark, password, stored, client)
                if right and cache_seconds:
                    self._verified.put(mark, trio.current_time(), MAX_PASSWORD_CACHE_SECONDS)
                return right
            await trial.done.wait()
            if trial.matches is not None:
                return trial.matches
        return True

    def _is_cached(self, cache_key: bytes, cache_seconds: float) -> bool:
        since = self._verified.get(cache_key)
        return since is not None and trio.current_time() < since + cache_seconds

    def _too_many_of_client(self) -> Rejected:
        most = self.max_queue_per_address
        text = f"{most} passwords of this address are waiting, and limits.password_queue_per_address is {most}"
        return Rejected(Reason.RATE_LIMITED, text)

    def stable_index(self, name: str, count: int) -> int:
        """Return a number below `count`: always the same for a name, and not predictable from outside."""
        digest = hmac.digest(self._key, b"pick\0" + name.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return int.from_bytes(digest) % count

    def _cache_key(self, name: str, password: bytes, stored: PasswordHash) -> bytes:
        pair = b"\0".join((b"pair", name.encode("utf-8", "surrogatepass"), stored.text.encode(), password))
        return hmac.digest(self._key, pair, hashlib.sha256)

    async def _verify_in_thread(
        self, cache_key: bytes, password: bytes, stored: PasswordHash, client: ClientGate
    ) -> bool:
        """Verify in a thread; one whose client has left goes on, and holds its place until it is done."""
        if not self._limiter.available_tokens and self._limiter.statistics().tasks_waiting >= self.max_queue:
            most = self.max_queue
            text = f"{most} passwords are waiting to be verified, and limits.password_queue is {most}"
            raise Rejected(Reason.OVERLOAD, text, initiator="wsbridge")
        if client.key is not None and not self._by_client.acquire(client.key, self.max_queue_per_address):
            raise self._too_many_of_client()
        trial = self._pending[cache_key] = _Pending()

        def verify() -> bool | None:
            return None if client.is_banned() else stored.verify(password)

        try:
            trial.matches = await run_in_thread(verify, self._limiter)
        except NoThreadError as error:
            raise Rejected(Reason.OVERLOAD, str(error.strerror), initiator="wsbridge") from None
        finally:
            del self._pending[cache_key]
            trial.done.set()
            if client.key is not None:
                self._by_client.release(client.key)
        if trial.matches is None:
            raise client.banned()
        return trial.matches
