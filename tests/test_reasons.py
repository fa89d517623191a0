"""The table of reasons follows the protocols."""

import pytest

from wsbridge.reasons import REASONS, Reason, Termination


def test_every_reason_has_a_row():
    """No reason is without its ending."""
    assert set(REASONS) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_rows_are_possible(reason):
    """Statuses are errors with a sentence, close codes may be sent (RFC 6455 section 7.4.1), the name fits a frame."""
    row = REASONS[reason]
    assert row.status is None or 400 <= row.status <= 599
    assert bool(row.advice) == (row.status is not None) or reason in (Reason.BAD_REQUEST, Reason.REQUEST_TOO_LARGE)
    assert row.close_code in {None, 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014}
    assert len(reason.value.encode()) <= 123
    assert reason.value.islower()
    assert reason.value.isascii()


def test_half_done_work_never_looks_whole():
    """Whatever is not the end of data of one side resets the raw other one."""
    orderly = {reason for reason, row in REASONS.items() if not row.reset}
    names = "BACKEND_CLOSED CLIENT_CLOSED SERVED HANDED_OVER"
    assert orderly == {Reason[name] for name in names.split()}


def test_the_status_of_an_end():
    """Its own, else the table's, else 500."""
    assert Termination(Reason.BAD_REQUEST, "client", status=405).http_status == 405
    assert Termination(Reason.OVERLOAD, "wsbridge").http_status == 503
    assert Termination(Reason.CLIENT_LOST, "client").http_status == 500
