"""Settings that routes have in common, put into those that do not set them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from wsbridge.config.base import Issue, KeyPath
from wsbridge.config.key_path_set import KeyPathSet
from wsbridge.config.route import BACKEND_ONLY_KEYS, ROUTE_ACTIONS, RouteDefaults

MERGED_KEYS: Final = ("timeouts", "limits", "dial", "resume")
"""Mappings of which a route may set some keys, and gets the others; it replaces everything else as a whole."""
_WEBSOCKET_URL: Final = re.compile(r"wss?://|ws\+unix:", re.IGNORECASE)


class Defaults:
    """The defaults of a file, and the routes that they apply to.

    Args:
        data: The values of the file.
        section: Its defaults, without what is wrong in them; None if they cannot be read at all.
        issues: What is wrong in them.

    Attributes:
        merged: The values, with the defaults in the routes.
    """

    def __init__(self, data: Mapping[str, Any], section: RouteDefaults | None, issues: Iterable[Issue]) -> None:
        self._wrong = KeyPathSet(issue.key_path for issue in issues)
        self._written: Mapping[str, Any] = data["defaults"] if isinstance(data["defaults"], dict) else {}
        self._routes: Mapping[str, Any] = data["routes"] if isinstance(data.get("routes"), dict) else {}
        self.merged: dict[str, Any] = {**data, "defaults": section or RouteDefaults()}
        if section is not None and self._routes:
            named = _named_routes(data)
            self.merged["routes"] = {
                name: self._merge(route, section, named=name in named) if isinstance(route, dict) else route
                for name, route in self._routes.items()
            }

    def _merge(self, route: Mapping[str, Any], section: RouteDefaults, *, named: bool) -> dict[str, Any]:
        merged = dict(route)
        for key in section.model_fields_set:
            value = getattr(section, key)
            if not _applies(key, value, route, named=named):
                continue
            if key not in route:
                merged[key] = value
            elif key in MERGED_KEYS and isinstance(route[key], dict):
                merged[key] = {**self._written[key], **route[key]}
        return merged

    def redirect(self, issues: Iterable[Issue]) -> Iterator[Issue]:
        """Point issues of what a route has from the defaults to these; what was found there is not reported again."""
        for issue in issues:
            path = self.origin(issue.key_path)
            if path is None:
                yield issue
            elif not self._wrong.overlaps(path):
                route = f', which the route "{issue.key_path[1]}" gets' if issue.code.startswith("E") else ""
                yield replace(issue, key_path=path, message=issue.message + route)

    def route_references(self, references: Mapping[KeyPath, str]) -> dict[KeyPath, str]:
        """Return texts with variables of the defaults, by the paths in the routes that have them."""
        found: dict[KeyPath, str] = {}
        for path, text in references.items():
            for name in self._routes if path[:1] == ("defaults",) else ():
                inner = ("routes", name, *path[1:])
                if self.origin(inner) == path:
                    found[inner] = text
        return found

    def origin(self, path: KeyPath) -> KeyPath | None:
        """Return where a setting of a route is written in the defaults; None if it is not."""
        if path[:1] != ("routes",) or len(path) < 3:
            return None
        _, name, key, *inner = path
        route, written = self._routes.get(str(name)), self._written.get(str(key))
        unreadable = self._wrong.has_above(("defaults",)) and key in RouteDefaults.model_fields
        if (written is None and not unreadable) or not isinstance(route, dict):
            return None
        if key not in route:
            return ("defaults", key, *inner)
        if key in MERGED_KEYS and isinstance(route[key], dict) and isinstance(written, dict) and inner:
            return ("defaults", key, *inner) if inner[0] not in route[key] and inner[0] in written else None
        return None


def _named_routes(data: Mapping[str, Any]) -> set[object]:
    """Return the routes that listeners with protocol: tcp name."""
    listeners = data.get("listeners")
    found = listeners.values() if isinstance(listeners, dict) else ()
    return {str(listener.get("route")) for listener in found if isinstance(listener, dict)}


def _applies(key: str, value: object, route: Mapping[str, Any], *, named: bool) -> bool:
    """Return whether a setting has a meaning for a route.

    Args:
        key: Of the defaults.
        value: Its value.
        route: As written.
        named: Whether a listener with protocol: tcp names it.
    """
    action = next((action for action in ROUTE_ACTIONS if action in route), "backend")
    if action != "backend":
        return key not in BACKEND_ONLY_KEYS or (action, key) == ("issue_tickets", "allowed_origins")
    backend = route.get("backend")
    written = backend if isinstance(backend, dict) else {"url": backend}
    url = str(written.get("url", ""))
    if key == "resume":
        return "match" in route
    if key == "allowed_targets":
        return "tokens" in written or "{" in url
    websocket = _WEBSOCKET_URL.match(url) is not None
    if (key, value) == ("subprotocols", "any"):
        return websocket
    if (key, value) == ("text_messages", "bytes"):
        return not websocket
    if (key, value) == ("on_client_fin", "hold"):
        return websocket and named
    return (key, value) != ("on_client_lost", "reset") or not url.lower().startswith("unix:")
