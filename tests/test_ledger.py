"""A ledger is plain counters."""

from wsbridge.ledger import Ledger
from wsbridge.reasons import Reason


def test_a_fresh_ledger_counts_from_nothing():
    """All counters begin at zero, and two ledgers share none."""
    one, two = Ledger(), Ledger()
    one.endings[Reason.DRAIN] += 1
    one.active += 1
    assert two == Ledger(0, 0, 0, 0, 0)
    assert not two.endings
    assert one.endings[Reason.STOP] == 0
