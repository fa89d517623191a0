"""`ticket` prints what the route accepts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.cli.program import invoke
from wsbridge.protocol.ticket import Ticket, decode_ticket

KEY = "k" * 44


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A configuration with a route that accepts tickets, one that binds them to an address, one that accepts none."""
    (tmp_path / "key").write_text(KEY)
    path = tmp_path / "wsbridge.yaml"
    path.write_text(
        "listeners: {web: {bind: 127.0.0.1:8080}}\n"
        "routes:\n"
        "  vnc: {match: {path: /vnc}, backend: 'tcp://a:1',"
        " auth: {any_of: [{kind: network, allow: [10.0.0.0/8]}, {kind: ticket, key: {file: key}}]}}\n"
        "  desk: {match: {path: /desk}, backend: 'tcp://a:1',"
        " auth: {kind: ticket, key: {file: key}, bind_client_address: true, query_parameter: my_ticket}}\n"
        "  rest: {match: any, respond: 404, auth: none}\n"
    )
    return str(path)


def made(file: str, *args: str) -> Ticket:
    """Have one printed, and read it."""
    result = invoke("ticket", "-c", file, "--name", "alice", *args)
    assert result.exit_code == 0, result.output
    ticket = decode_ticket(result.output.removesuffix("\n"), KEY.encode())
    assert isinstance(ticket, Ticket)
    return ticket


def test_a_ticket_alone(file: str) -> None:
    """Nothing else is printed: half a minute for alice, from any address."""
    ticket = made(file, "--route", "vnc")

    assert (ticket.route, ticket.name, ticket.address, ticket.target, ticket.until) == (
        "vnc",
        "alice",
        None,
        None,
        None,
    )
    assert abs(ticket.issued / 1000 - time.time()) < 60
    assert ticket.expires - ticket.issued == 30_000


def test_all_that_it_can_say(file: str) -> None:
    """Life, address, target and claims are those asked for, in the form in which clients' addresses are reported."""
    options = ["--ttl", "1h", "--address", "2001:DB8:0::1", "--target", "tcp://10.0.0.5:5900"]
    ticket = made(file, "--route", "vnc", *options, "--claim", "role=a=b", "--claim", "team=")

    assert ticket.expires - ticket.issued == 3_600_000
    assert (ticket.address, ticket.target) == ("2001:db8::1", "tcp://10.0.0.5:5900")
    assert ticket.claims == {"role": "a=b", "team": ""}
    assert made(file, "--route", "vnc", "--address", "::ffff:192.0.2.1").address == "192.0.2.1"
    assert made(file, "--route", "vnc", "--address", "unix").address == "unix"


@pytest.mark.parametrize(
    ("url", "before"),
    [("wss://gw/desk", "wss://gw/desk?my_ticket="), ("wss://gw/desk?a=1", "wss://gw/desk?a=1&my_ticket=")],
)
def test_a_whole_url(file: str, url: str, before: str) -> None:
    """The parameter is the one that the route looks for."""
    args = ["--route", "desk", "--name", "alice", "--address", "192.0.2.1", "--url", url]
    result = invoke("ticket", "-c", file, *args)

    assert result.output.startswith(before)
    assert isinstance(decode_ticket(result.output.removeprefix(before).strip(), KEY.encode()), Ticket)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--route", "vcn"], 'there is no route "vcn" (did you mean "vnc"?)'),
        (["--route", "rest"], 'the route "rest" accepts no tickets'),
        (["--route", "desk"], "add --address IP"),
        (["--route", "vnc", "--ttl", "30"], '--ttl: "30" has no unit: write 30s'),
        (["--route", "vnc", "--ttl", "2h"], "--ttl: a ticket is for one connection, at once: at most 1h"),
        (["--route", "vnc", "--address", "gw"], '--address: "gw" is not an IP address'),
        (["--route", "vnc", "--target", "10.0.0.5:1"], "--target: "),
        (["--route", "vnc", "--claim", "role"], '--claim: "role" does not have the form NAME=TEXT'),
        (["--route", "vnc", "--claim", f"x={'y' * 5000}"], "and the maximum is 4096"),
        (["--route", "vnc", "--url", "ws://gw/#a"], "--url: the URL of a WebSocket has no fragment"),
        (["--route", "vnc", "--name", "a\nb"], "--name: must be printable text, and not empty"),
        (["--route", "vnc", "--name", ""], "--name: must be printable text, and not empty"),
        (["--route", "vnc", "--claim", "a=b", "--claim", "a=c"], "--claim: a is given twice"),
        ([], "Missing option '--route'"),
    ],
)
def test_wrong_arguments(file: str, args: list[str], said: str) -> None:
    """Each exits with 64 and says what to write, and no ticket is printed."""
    result = invoke("ticket", "-c", file, "--name", "alice", *args)

    assert result.exit_code == 64
    assert said in result.output
    assert "1.ey" not in result.output


def test_a_configuration_that_cannot_be_used(file: str) -> None:
    """A key that is missing is reported as by every command: 78."""
    (Path(file).parent / "key").unlink()

    result = invoke("ticket", "-c", file, "--route", "vnc", "--name", "alice")

    assert result.exit_code == 78
    assert "cannot be read" in result.output or "does not exist" in result.output or "there is no" in result.output
