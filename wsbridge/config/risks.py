"""Warnings about settings that are valid but dangerous, and errors where they expose secrets."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from wsbridge.config.base import AuthSection, Issue, KeyPath, LoadContext, Section
from wsbridge.config.check import listeners_of, public_listeners, walk_auth, walk_sections
from wsbridge.config.model import Config
from wsbridge.config.route import RouteConfig
from wsbridge.config.secrets import Secret
from wsbridge.config.types import IpNetwork, covers_internet

HOST_ACCEPTING_KEYS: Final = "IP addresses, localhost and the name in bind"


def check_risks(config: Config, context: LoadContext) -> list[Issue]:
    """Find settings that allow more than they seem to.

    Args:
        config: Its valid sections.
        context: What it was read with; files are only checked if it says so.
    """
    return [
        *_check_proxies(config),
        *_check_exempt_networks(config),
        *_check_open_auth(config),
        *_check_proxies_in_allow(config),
        *_check_open_targets(config),
        *_check_host_names(config),
        *(_check_writable_files(config, context) if context.check_files else ()),
        *(_check_served_files(config, context) if context.check_files else ()),
    ]


def _networks(values: Iterable[IpNetwork | str]) -> list[IpNetwork]:
    return [value for value in values if not isinstance(value, str)]


def _check_proxies(config: Config) -> Iterator[Issue]:
    for name, listener in config.listeners.items():
        proxies = listener.trusted_proxies or ()
        if covers_internet(_networks(proxies)):
            path: KeyPath = ("listeners", name, "trusted_proxies")
            alone = (at for at, proxy in enumerate(proxies) if covers_internet(_networks([proxy])))
            text = "includes nearly every address: any client may claim any address"
            yield Issue((*path, *list(alone)[:1]), text, "W015")


def _check_exempt_networks(config: Config) -> Iterator[Issue]:
    if covers_internet(_networks(config.limits.per_address.exempt)):
        text = "includes nearly every address: no client has a limit, and no failed login is counted"
        yield Issue(("limits", "per_address", "exempt"), text, "W024")


def _check_open_auth(config: Config) -> Iterator[Issue]:
    """Authentication that admits every client although it looks as if it did not."""
    for name, route in config.routes.items():
        if route.auth is None or route.auth.kind == "none":
            continue
        for path, auth in walk_auth(route.auth, ("routes", name, "auth")):
            if auth.kind == "any_of":
                for at, member in enumerate(auth.members()):
                    if member.allows_everyone():
                        text = "admits every other client, so that the other methods of any_of are never needed"
                        yield Issue((*path, "any_of", at), f"{text}; write it under all_of", "E029")
            elif auth is route.auth and auth.allows_everyone():
                yield Issue(path, "admits nearly every client, like auth: none", "W020")


def _check_proxies_in_allow(config: Config) -> Iterator[Issue]:
    """Requests without an address header count as those of the proxy that sent them."""
    for name, route in config.routes.items():
        if route.auth is None:
            continue
        proxies = [
            (key, proxy) for key in listeners_of(config, name) for proxy in config.listeners[key].trusted_proxies or ()
        ]
        for path, auth in walk_auth(route.auth, ("routes", name, "auth")):
            if auth.kind == "network":
                yield from _find_allowed_proxy(auth, path, proxies)


def _find_allowed_proxy(
    auth: AuthSection, path: KeyPath, proxies: Sequence[tuple[str, IpNetwork | str]]
) -> Iterator[Issue]:
    allow, deny = getattr(auth, "allow", None) or (), getattr(auth, "deny", None) or ()
    for at, allowed in enumerate(allow):
        for listener, proxy in proxies:
            if _overlap(allowed, proxy) and not any(_includes(denied, proxy) for denied in deny):
                text = f'includes the trusted proxy {proxy} of the listener "{listener}"'
                hint = "a client whose address it does not report is allowed; write deny: for the proxy"
                yield Issue((*path, "allow", at), f"{text}: {hint}", "W023")
                return


def _includes(outer: IpNetwork | str, inner: IpNetwork | str) -> bool:
    if isinstance(outer, str) or isinstance(inner, str):  # `unix`
        return outer == inner
    return outer.version == inner.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # of one version


def _overlap(one: IpNetwork | str, other: IpNetwork | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return one.version == other.version and one.overlaps(other)


def _check_open_targets(config: Config) -> Iterator[Issue]:
    """Routes that let anyone connect anywhere."""
    for name, route in config.routes.items():
        targets = route.allowed_targets
        open_to_all = route.auth is None or route.auth.allows_everyone()
        if targets is not None and open_to_all and covers_internet(targets.networks or ()):
            text = "anyone who can reach this route can connect to nearly any address through it (open proxy)"
            yield Issue(("routes", name, "allowed_targets", "networks"), text, "W021")


def _check_host_names(config: Config) -> Iterator[Issue]:
    """Routes without a host, credentials or TLS: protected against DNS rebinding by the Host header alone, or not."""
    for name, route in config.routes.items():
        if route.auth is None or route.respond is not None or not _needs_host(route):
            continue
        path: KeyPath = ("routes", name, "match")
        for key in public_listeners(config, name):
            listener = config.listeners[key]
            if listener.protocol != "websocket" or listener.tls is not None or listener.host_names is not None:
                continue
            if listener.trusted_proxies is None:
                if listener.bind.is_loopback:
                    continue
                text = f'accepts only {HOST_ACCEPTING_KEYS} as Host on the listener "{key}" (DNS rebinding protection)'
                yield Issue(path, f"{text}; to accept host names, write host_names: for the listener", "W025")
            elif not isinstance(route.allowed_origins, tuple):
                text = f'the proxies of the listener "{key}" may pass on any Host, and pages of any site can use it'
                yield Issue(
                    path, f"{text} (DNS rebinding); write match: {{host: …}}, host_names: or allowed_origins:", "W026"
                )


def _needs_host(route: RouteConfig) -> bool:
    has_host = route.match is not None and route.match != "any" and route.match.host is not None
    return not has_host and route.auth is not None and not route.auth.requires_credentials()


def _check_writable_files(config: Config, context: LoadContext) -> Iterator[Issue]:
    """Files by which other users of this host could change what is allowed."""
    files = [(path, file) for path, file, _ in files_of(config)]
    if context.file is not None:
        files.append(((), context.file))
    for path, file in files:
        with contextlib.suppress(OSError):  # its own check reports it
            if file.stat().st_mode & stat.S_IWOTH:
                yield Issue(path, f"every user of this host can change {file}", "W022")
            elif file.parent.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
                text = f"every user of this host can replace {file}, since they can write to {file.parent}"
                yield Issue(path, text, "W022")


def _check_served_files(config: Config, context: LoadContext) -> Iterator[Issue]:
    """Directories of static files that contain a secret."""
    private = [file for _, file, is_private in files_of(config) if is_private]
    private += [context.file] if context.file is not None else []
    private += context.included
    inside: dict[Path, Path] = {}  # a private file of each directory
    for file in private:
        for outer in (real := _real_path(file), *real.parents):
            inside.setdefault(outer, file)
    for name, route in config.routes.items():
        directory = getattr(route.files, "dir", route.files)
        if isinstance(directory, Path) and (served := inside.get(_real_path(directory))) is not None:
            text = f"would serve {served}; move it out of {directory}"
            yield Issue(("routes", name, "files"), text, "E036")


def _real_path(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of symbolic links
        return path


def files_of(config: Config) -> Iterator[tuple[KeyPath, Path, bool]]:
    """Give all files and directories that the configuration reads.

    Returns:
        The path of the setting, the file, and whether its content is private.
    """
    for path, section in walk_sections(config):
        for name in type(section).model_fields:
            for value in _values(getattr(section, name)):
                if isinstance(value, Secret) and value.file is not None:
                    yield (*path, name), value.file, True
                elif isinstance(value, Path) and name not in UNREAD_FIELDS:
                    yield (*path, name), value, name in PRIVATE_FIELDS or _is_key_file(section, name)


UNREAD_FIELDS: Final = frozenset({"unix", "mode"})
PRIVATE_FIELDS: Final = frozenset({"key", "users", "tokens"})


def _is_key_file(section: Section, name: str) -> bool:
    """Return whether a file has a private key beside its certificate."""
    return name == "cert" and getattr(section, "key", None) == getattr(section, "cert", None)


def _values(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, tuple):
        yield from value
    else:
        yield value
