"""The listeners of the admin API and of the monitoring endpoint, which a reload may add, move and remove."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from wsbridge.admin.api import TAKEOVER_PATH, AdminApi, MonitoringApi
from wsbridge.admin.http import AdminHandler, AdminRequest, AdminResponse, accept_requests, check_access
from wsbridge.admin.status_page import PAGE_PATHS, StatusPage
from wsbridge.config.admin import AdminConfig, MonitoringConfig
from wsbridge.config.listener import ListenerConfig
from wsbridge.config.model import Config
from wsbridge.config.urls import BindAddress
from wsbridge.log.logger import log
from wsbridge.net.listeners import InheritedSockets, ListeningSockets, listen_in_thread, listener_key
from wsbridge.registry import LISTENERS

EndpointConfig = AdminConfig | MonitoringConfig
ENDPOINT_BACKLOG = 64


def admin_config(config: Config, environ: Mapping[str, str]) -> AdminConfig | None:
    """Return the section `admin`; if it is omitted under systemd, a socket in the runtime directory of the unit.

    Args:
        config: Checked.
        environ: For NOTIFY_SOCKET and RUNTIME_DIRECTORY (systemd.exec(5)).
    """
    directory = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if config.admin is not None or not directory or not environ.get("NOTIFY_SOCKET"):
        return config.admin
    return AdminConfig.model_construct(bind=BindAddress("unix", path=f"{directory}/admin.sock"))


class AdminEndpoint:
    """One of the two: its sockets, and the task that answers at them. Its methods are the steps of a reload.

    Args:
        name: What the log calls it.
        select: Gives its section of a configuration; None: it is off.
        handle: Answers the requests that are allowed.
        nursery: Where its task and its connections run.
        inherited: Sockets that another process handed over.
    """

    def __init__(
        self,
        name: str,
        select: Callable[[Config], EndpointConfig | None],
        handle: AdminHandler,
        nursery: trio.Nursery,
        inherited: InheritedSockets,
    ) -> None:
        self._name = name
        self._select = select
        self._handle_allowed = handle
        self._nursery = nursery
        self._section: EndpointConfig | None = None
        self._sockets: ListeningSockets | None = None
        self._page: StatusPage | None = None
        self._inherited = inherited
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._next_section: EndpointConfig | None = None
        self._next_sockets: ListeningSockets | None = None
        self._revert: Callable[[], None] | None = None

    async def prepare(self, config: Config) -> None:
        """Bind the address of a configuration, unless it is bound already.

        Raises:
            ListenError: It cannot be bound.
        """
        section = self._next_section = self._select(config)
        if isinstance(section, AdminConfig) and section.page and self._page is None:
            self._page = await listen_in_thread(self._name, section.bind, StatusPage)
        if section is None:
            self._next_sockets = None
            return
        listener = ListenerConfig.model_construct(
            bind=section.bind, mode=section.mode, backlog=ENDPOINT_BACKLOG, owner=None, ipv6_only=False
        )
        if await listen_in_thread(self._name, section.bind, lambda: self._keep(listener)):
            self._next_sockets = self._sockets
        else:
            self._next_sockets = await self._inherited.listen(self._name, listener, LISTENERS[section.bind.kind])

    def _keep(self, listener: ListenerConfig) -> bool:
        """Update the open sockets for a section; return whether they are bound to its address. Runs in a thread."""
        sockets = self._sockets
        if sockets is None or sockets.key != listener_key(self._name, listener) or not sockets.is_reachable():
            return False
        self._revert = sockets.update_file(listener)
        return True

    def rollback(self) -> None:
        """Close what `prepare` has opened, and revert what it has changed."""
        if self._revert is not None:
            self._revert()
            self._revert = None
        if self._next_sockets is not None and self._next_sockets is not self._sockets:
            self._next_sockets.close()
        self._next_sockets = self._sockets

    def commit(self) -> None:
        """Answer at what `prepare` has opened, and no longer at what was open before."""
        before, self._sockets, self._section = self._sockets, self._next_sockets, self._next_section
        self._revert = None
        if before is self._sockets:
            return
        if before is not None:
            self._scope.cancel()
            self._close(before)
        if self._sockets is not None:
            self._scope, self._ended = trio.CancelScope(), trio.Event()
            self._nursery.start_soon(self._accept, self._sockets, self._scope, self._ended)
            for address in self._sockets.addresses:
                log.info("listener.opened", listener=self._name, listen_address=address)

    @property
    def sockets(self) -> ListeningSockets | None:
        """Those that are open."""
        return self._sockets

    async def release(self) -> None:
        """Stop accepting, and leave the sockets to another process, which has them, too."""
        self._scope.cancel()
        await self._ended.wait()
        if self._sockets is not None:
            self._sockets.release()
            self._sockets = self._next_sockets = None

    def close(self) -> None:
        """Close the sockets."""
        self.rollback()
        self._scope.cancel()
        if self._sockets is not None:
            self._close(self._sockets)
            self._sockets = self._next_sockets = None

    def _close(self, sockets: ListeningSockets) -> None:
        sockets.close()
        log.info("listener.closed", listener=self._name)

    async def _accept(self, sockets: ListeningSockets, scope: trio.CancelScope, ended: trio.Event) -> None:
        with scope:
            await trio.lowlevel.checkpoint_if_cancelled()  # the sockets may have been closed before this began
            async with trio.open_nursery() as nursery:
                for sock in sockets.sockets:
                    nursery.start_soon(accept_requests, sock, self._handle, self._nursery)
        ended.set()

    async def _handle(self, request: AdminRequest) -> AdminResponse:
        section = self._section
        if isinstance(section, AdminConfig):
            over_tcp = section.bind.kind == "tcp"
            page = self._page if section.page and request.path in PAGE_PATHS else None
            is_open = page is not None or (request.path == TAKEOVER_PATH and not over_tcp)
            token = None if is_open else section.token
            refusal = check_access(request, token, checks_host=over_tcp or section.page, checks_origin=page is None)
            if refusal is not None:
                log.warning(
                    "admin.denied", method=request.method, path=request.path, status=int(refusal.status), **request.peer
                )
                return refusal
            if page is not None:
                return page.response(request, needs_token=section.token is not None)
        return await self._handle_allowed(request)


def build_endpoints(
    admin: AdminApi,
    monitoring: MonitoringApi,
    environ: Mapping[str, str],
    nursery: trio.Nursery,
    inherited: InheritedSockets | None = None,
) -> list[AdminEndpoint]:
    """Make both endpoints, not open yet."""
    inherited = inherited or InheritedSockets()
    return [
        AdminEndpoint("admin", lambda config: admin_config(config, environ), admin.handle, nursery, inherited),
        AdminEndpoint("monitoring", lambda config: config.monitoring, monitoring.handle, nursery, inherited),
    ]
