"""From the URL to a connection that carries bytes: name lookup, TCP or Unix socket, HTTP proxy, TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from wsbridge.net.address import Address, join_host_port
from wsbridge.net.dialer import MAX_DIAL_ADDRESSES, dial, dial_unix, interleave_families
from wsbridge.net.http_proxy import ProxyConnector
from wsbridge.net.resolver import Resolver, parse_ip_literal
from wsbridge.net.tls import client_context, is_truncated, tls_error_text
from wsbridge.net.tls_transport import TlsTransport, start_tls
from wsbridge.net.transport import SocketTransport, set_socket_options
from wsbridge.probe.certificates import ShownCertificate
from wsbridge.probe.options import ProbeOptions
from wsbridge.probe.peers import describe_greeting, name_service
from wsbridge.probe.steps import Diagnosis, ProbeStep, StepFailedError, StepReport
from wsbridge.probe.transport_faults import (
    diagnose_dns,
    diagnose_proxy,
    diagnose_tcp,
    diagnose_tls_alert,
    diagnose_unix,
)
from wsbridge.protocol.handshake import encode_upgrade_request, generate_key
from wsbridge.protocol.http1 import MAX_RESPONSE_HEAD_BYTES
from wsbridge.reasons import Rejected

OTHER_ADDRESSES_TIMEOUT: Final = 2.0
"""Seconds for the other addresses of a name, once one has answered."""
GUESS_TIMEOUT: Final = 2.0
"""Seconds for each step of a second connection that finds out what a peer speaks instead."""

_NOT_TLS: Final = frozenset(
    ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE")
)
_UNIX: Final = "Unix socket"

Report = Callable[[StepReport], None]


@dataclass(slots=True)
class AddressAttempt:
    """An attempt to connect to one address.

    Attributes:
        address: Where to.
        seconds: How long it took.
        sock: The connection, or None.
        failure: Why there is none; None also where nothing came back.
    """

    address: Address
    seconds: float = 0.0
    sock: socket.socket | None = None
    failure: Rejected | None = None

    def __str__(self) -> str:
        if self.sock is not None:
            how = "connected"
        elif self.failure is None:
            how = "SYN unanswered"
        else:
            how = self.failure.detail.removeprefix(f"{self.address}: ")
        return f"{self.address}: {how}"

    def timed(self) -> str:
        """Describe it with its time."""
        return f"{self} ({self.seconds * 1000:.1f} ms)"


class TransportPath:
    """Opens connections to one target; the first one by steps that are reported, further ones to the same address.

    Args:
        options: Of the probe.
        resolver: Looks names up.
        report: Gets the steps that succeed.
    """

    def __init__(self, options: ProbeOptions, resolver: Resolver, report: Report) -> None:
        self._options = options
        self._resolver = resolver
        self._report = report
        self._address: Address | None = None
        self._proxy = (
            None
            if options.proxy is None
            else ProxyConnector(options.proxy, options.proxy_headers, MAX_RESPONSE_HEAD_BYTES)
        )

    async def open_first(self) -> SocketTransport:
        """Walk the steps, and report each.

        Raises:
            StepFailedError: One of them failed.
        """
        options = self._options
        path = options.target.socket_path or (options.target.path if options.target.scheme == "unix" else "")
        transport = SocketTransport(await (self._connect_unix(path) if path else self._connect_tcp()))
        try:
            transport = await self._secure(transport, self._report)
        except BaseException:
            transport.abort()
            raise
        return transport

    async def open_again(self) -> SocketTransport:
        """Open another connection to the same address; nothing is reported.

        Raises:
            StepFailedError: It does not work any more.
        """
        transport = await self._dial_again()
        try:
            return await self._secure(transport, lambda _: None)
        except BaseException:
            transport.abort()
            raise

    async def _dial_again(self, timeout: float | None = None) -> SocketTransport:
        """Open another connection, without proxy and TLS."""
        target = self._options.target
        path = target.socket_path or (target.path if target.scheme == "unix" else "")
        try:
            with trio.fail_after(timeout or self._options.timeout):
                if path:
                    return SocketTransport(await dial_unix(path))
                assert self._address is not None  # noqa: S101  (the first connection has found it)
                return SocketTransport(await self._dial(self._address))
        except trio.TooSlowError:
            diagnosis = Diagnosis(ProbeStep.TCP, "A further connection was not answered.")
            raise StepFailedError(diagnosis, "another connection: SYN unanswered") from None
        except Rejected as rejected:
            diagnosis = Diagnosis(ProbeStep.TCP, "A further connection was not accepted.")
            raise StepFailedError(diagnosis, f"another connection: {rejected.detail}") from None

    async def _dial(self, address: Address) -> socket.socket:
        host = address.sockaddr[0]
        if len(address.sockaddr) == 4 and address.sockaddr[3] and "%" not in host:
            host = f"{host}%{address.sockaddr[3]}"
        return await dial(self._resolver, host, address.sockaddr[1])

    # ---- name lookup and TCP

    @property
    def _host_port(self) -> tuple[str, int]:
        proxy, target = self._options.proxy, self._options.target
        return (target.host, target.port) if proxy is None else (proxy.host, proxy.port)

    async def _look_up(self) -> list[Address]:
        host, port = self._host_port
        what = f"the proxy {host}" if self._proxy is not None else host
        literal = parse_ip_literal(host, port)
        if literal is not None:
            self._report(StepReport(ProbeStep.DNS, "skipped", f"{what} is an address"))
            return [literal]
        started = trio.current_time()
        try:
            with trio.fail_after(self._options.timeout):
                found = await self._resolver.resolve(host, port)
        except trio.TooSlowError:
            cause = "The DNS server does not answer."
            remedies = ("Check the name servers of this host: /etc/resolv.conf, resolvectl status",)
            text = f"{what}: no answer within {self._options.timeout:g} s"
            raise StepFailedError(Diagnosis(ProbeStep.DNS, cause, remedies), text) from None
        except OSError as error:
            seconds = trio.current_time() - started
            text = f"{what}: {error.strerror or error}"
            raise StepFailedError(diagnose_dns(host, error), text, seconds=seconds) from None
        addresses = [address.sockaddr[0] for address in found]
        text = f"{what} is {', '.join(addresses[:MAX_DIAL_ADDRESSES])}"
        facts = {"addresses": addresses}
        self._report(StepReport(ProbeStep.DNS, "ok", text, trio.current_time() - started, facts=facts))
        return found

    async def _connect_tcp(self) -> socket.socket:
        addresses = interleave_families(await self._look_up())[:MAX_DIAL_ADDRESSES]
        attempts = [AddressAttempt(address) for address in addresses]
        try:
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.deadline = trio.current_time() + self._options.timeout
                for one in attempts:
                    nursery.start_soon(self._attempt, one, nursery.cancel_scope)
        except BaseException:
            for one in attempts:
                if one.sock is not None:
                    one.sock.close()
            raise
        connected = next((one for one in attempts if one.sock is not None), None)
        facts = {"attempts": [_attempt_facts(one) for one in attempts]}
        if connected is None or connected.sock is None:
            seconds = max(one.seconds for one in attempts)
            text = str(attempts[0]) if len(attempts) == 1 else "none of the addresses can be connected to"
            notes = () if len(attempts) == 1 else tuple(one.timed() for one in attempts)
            raise StepFailedError(
                diagnose_tcp(*self._host_port, [one.failure for one in attempts]),
                text,
                seconds=seconds,
                notes=notes,
                facts=facts,
            )
        for one in attempts:
            if one.sock is not None and one is not connected:
                one.sock.close()
        self._address = connected.address
        dead = [one for one in attempts if one.sock is None]
        text = f"{connected.address} connected"
        if dead:
            text += f"; {len(dead)} of {len(attempts)} addresses do not work, and delay or fail clients"
        notes = tuple(one.timed() for one in attempts) if len(attempts) > 1 else ()
        self._report(
            StepReport(ProbeStep.TCP, "warning" if dead else "ok", text, connected.seconds, notes=notes, facts=facts)
        )
        return connected.sock

    async def _attempt(self, one: AddressAttempt, scope: trio.CancelScope) -> None:
        started = trio.current_time()
        try:
            one.sock = await self._dial(one.address)
            scope.deadline = min(scope.deadline, trio.current_time() + OTHER_ADDRESSES_TIMEOUT)
        except Rejected as rejected:
            one.failure = rejected
        finally:
            one.seconds = trio.current_time() - started

    async def _connect_unix(self, path: str) -> socket.socket:
        started = trio.current_time()
        try:
            sock = await dial_unix(path)
        except Rejected as rejected:
            text = f"unix:{path}: {rejected.detail.removeprefix(f'unix:{path}: ')}"
            raise StepFailedError(diagnose_unix(path, rejected), text, label=_UNIX) from None
        self._report(
            StepReport(ProbeStep.TCP, "ok", f"unix:{path} connected", trio.current_time() - started, label=_UNIX)
        )
        return sock

    # ---- proxy and TLS

    async def _secure(self, transport: SocketTransport, report: Report) -> SocketTransport:
        """Pass the proxy, and start TLS."""
        if transport.sock.family != socket.AF_UNIX:
            try:
                set_socket_options(transport.sock)
            except OSError as error:
                diagnosis = Diagnosis(ProbeStep.TCP, "The connection was closed as soon as it was open.")
                raise StepFailedError(diagnosis, f"closed at once: {error.strerror}") from None
        if self._proxy is not None:
            await self._pass_proxy(self._proxy, transport, report)
        return transport if self._options.context is None else await self._start_tls(transport, report)

    async def _pass_proxy(self, proxy: ProxyConnector, transport: SocketTransport, report: Report) -> None:
        target = self._options.target
        started = trio.current_time()
        try:
            with trio.fail_after(self._options.timeout):
                await proxy.connect(transport, target.host, target.port)
        except trio.TooSlowError:
            cause = "The proxy accepted the connection and did not answer CONNECT."
            remedies = ("Check that it is an HTTP proxy, and its port", "It may wait for the target: try --timeout 60s")
            text = f"{proxy.proxy}: no answer to CONNECT within {self._options.timeout:g} s"
            raise StepFailedError(Diagnosis(ProbeStep.PROXY, cause, remedies), text) from None
        except Rejected as rejected:
            seconds = trio.current_time() - started
            text = rejected.detail
            raise StepFailedError(diagnose_proxy(text, target.port), text, seconds=seconds) from None
        text = f"{proxy.proxy} opened a tunnel to {join_host_port(target.host, target.port)}"
        report(StepReport(ProbeStep.PROXY, "ok", text, trio.current_time() - started))

    async def _start_tls(self, transport: SocketTransport, report: Report) -> TlsTransport:
        options = self._options
        assert options.context is not None  # noqa: S101  (checked by the caller)
        started = trio.current_time()
        try:
            with trio.fail_after(options.timeout):
                secured = await start_tls(
                    transport.sock, options.context, server_side=False, server_hostname=options.server_name
                )
        except trio.TooSlowError:
            text = f"no answer to the TLS hello within {options.timeout:g} s"
            raise StepFailedError(await self._diagnose_no_tls(text), text) from None
        except ssl.SSLCertVerificationError as error:
            seconds = trio.current_time() - started
            shown = await self._shown_certificate()
            diagnosis = shown.diagnose(error, options.server_name)
            text = f"the certificate is rejected: {error.verify_message.rstrip('.')}"
            raise StepFailedError(diagnosis, text, seconds=seconds, notes=shown.notes(), facts=shown.facts()) from None
        except OSError as error:
            seconds = trio.current_time() - started
            text = tls_error_text(error).partition("; if that is intended")[0]
            raise StepFailedError(await self._diagnose_tls(error, text), text, seconds=seconds) from None
        self._report_tls(secured, trio.current_time() - started, report)
        return secured

    def _report_tls(self, secured: TlsTransport, seconds: float, report: Report) -> None:
        shown = ShownCertificate(secured.peer_chain())
        warnings = shown.warnings()
        if self._options.insecure:
            warnings = ("the certificate is not verified (--insecure)", *warnings)
        text = f"{secured.tls_version}, {secured.cipher()}"
        facts = {"version": secured.tls_version, "cipher": secured.cipher(), **shown.facts()}
        report(
            StepReport(
                ProbeStep.TLS, "warning" if warnings else "ok", text, seconds, (*shown.notes(), *warnings), facts
            )
        )

    async def _shown_certificate(self) -> ShownCertificate:
        """Ask for the certificate once more, without verifying it; nothing is sent on that connection."""
        chain: list[bytes] = []
        with trio.move_on_after(self._guess_timeout * 2):
            try:
                plain = await self._dial_again(self._guess_timeout)
            except StepFailedError:
                return ShownCertificate(chain)
            try:
                if self._proxy is not None:
                    await self._proxy.connect(plain, self._options.target.host, self._options.target.port)
                secured = await start_tls(
                    plain.sock,
                    client_context(insecure=True),
                    server_side=False,
                    server_hostname=self._options.server_name,
                )
                chain = secured.peer_chain()
                secured.close()
            except (OSError, Rejected):
                pass
            finally:
                plain.abort()
        return ShownCertificate(chain)

    async def _diagnose_tls(self, error: OSError, text: str) -> Diagnosis:
        """Say why a TLS handshake failed for another reason than the certificate."""
        reason = getattr(error, "reason", None) or ""
        if reason in _NOT_TLS or is_truncated(error) or not isinstance(error, ssl.SSLError):
            return await self._diagnose_no_tls(text)
        return diagnose_tls_alert(text)

    async def _diagnose_no_tls(self, text: str) -> Diagnosis:
        """Say what a peer speaks that does not answer a TLS hello as TLS."""
        plain = self._options.target.scheme.replace("wss", "ws").replace("tls", "tcp")
        spoken = await self.first_bytes_without_tls()
        if spoken.startswith(b"HTTP/1."):
            return Diagnosis(
                ProbeStep.TLS,
                "This port speaks HTTP without TLS.",
                (
                    f"Write ws:// for {self._options.target.scheme}:// in the URL",
                    (
                        "If it has to be TLS: wsbridge.yaml: listeners.NAME.tls; nginx: listen … ssl; "
                        "HAProxy: bind … ssl crt "
                        "FILE; and check that the URL has the TLS port"
                    ),
                ),
            )
        if spoken and not name_service(spoken).startswith("a TLS"):
            return Diagnosis(
                ProbeStep.TLS,
                f"This port does not speak TLS; it sends {describe_greeting(spoken)}.",
                (f"Write {plain}:// for {self._options.target.scheme}://, or another port",),
            )
        closed = "closes the connection" if "closed" in text or "reset" in text.lower() else "does not answer"
        return Diagnosis(
            ProbeStep.TLS,
            f"What listens there {closed} when it gets a TLS hello: it does not speak TLS, or not for this name.",
            (
                f"Without TLS: write {plain}:// for {self._options.target.scheme}://",
                (
                    "wsbridge.yaml: listeners.NAME.tls; with client_address_from: proxy-protocol the "
                    "listener expects a PROXY "
                    "header first (HAProxy: send-proxy-v2, and bind … accept-proxy likewise)"
                ),
                f"The server may have no certificate for {self._options.server_name} (SNI): see its log",
            ),
        )

    # ---- second connections, to find out what a peer speaks

    @property
    def _guess_timeout(self) -> float:
        return min(self._options.timeout, GUESS_TIMEOUT)

    async def alert_after_handshake(self) -> str:
        """Return the TLS alert that a server sends when the handshake is over; empty for none.

        In TLS 1.3 a client certificate is rejected only then. On a connection on which a request was written, a reset
        may come before the alert is read.
        """
        try:
            transport = await self.open_again()
        except StepFailedError:
            return ""
        try:
            with trio.move_on_after(self._guess_timeout):
                await transport.read_some()
        except OSError as error:
            return str(error) if " alert " in str(error) else ""
        finally:
            transport.abort()
        return ""

    async def first_bytes_without_tls(self) -> bytes:
        """Send an upgrade request without TLS on another connection; return what comes back first."""
        target = self._options.target
        path = target.path if self._options.is_websocket and target.path else "/"
        request = encode_upgrade_request(self._options.host or target.authority or "localhost", path, generate_key())
        return await self._first_bytes(request)

    async def _first_bytes(self, request: bytes) -> bytes:
        """Send something without TLS on another connection; return what comes back first, as far as it comes soon."""
        with trio.move_on_after(self._guess_timeout * 2):
            try:
                plain = await self._dial_again(self._guess_timeout)
            except StepFailedError:
                return b""
            try:
                if self._proxy is not None:
                    await self._proxy.connect(plain, self._options.target.host, self._options.target.port)
                with trio.move_on_after(self._guess_timeout):
                    await plain.write_all(request)
                    return await plain.read_some()
            except (OSError, Rejected):
                return b""
            finally:
                plain.abort()
        return b""

    async def speaks_tls(self) -> bool:
        """Return whether a TLS hello on another connection is answered as TLS."""
        with trio.move_on_after(self._guess_timeout * 2):
            try:
                plain = await self._dial_again(self._guess_timeout)
            except StepFailedError:
                return False
            try:
                if self._proxy is not None:
                    await self._proxy.connect(plain, self._options.target.host, self._options.target.port)
                name = self._options.server_name or self._options.target.host or "localhost"
                context = client_context(insecure=True)
                (await start_tls(plain.sock, context, server_side=False, server_hostname=name)).abort()
            except ssl.SSLError as error:
                return "ALERT" in (error.reason or "")
            except (OSError, Rejected):
                return False
            finally:
                plain.abort()
            return True
        return False


def _attempt_facts(one: AddressAttempt) -> dict[str, object]:
    """Describe an attempt for scripts."""
    if one.sock is not None:
        result = "connected"
    else:
        result = "unanswered" if one.failure is None else one.failure.reason.value.removeprefix("backend_")
    return {"address": str(one.address), "seconds": round(one.seconds, 6), "result": result}
