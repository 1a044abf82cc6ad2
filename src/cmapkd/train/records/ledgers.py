"""Ledgers of all processes of a run: the samples delivered, and the unreadable images that any of them met."""

from __future__ import annotations

from cmapkd.data.loader import Ledger
from cmapkd.distributed.collectives import values_of_all
from cmapkd.train.state import Run


def ledger_of_all(run: Run) -> tuple[int, dict[str, str]]:
    """(samples seen, unreadable images with their reasons) of all processes."""
    mine = run.loader.ledger
    rows = values_of_all([mine.seen, mine.quarantined])
    bad: dict[str, str] = {}
    for _, found in rows:
        bad |= found
    return sum(seen for seen, _ in rows), bad


def join_ledgers(run: Run) -> None:
    """Let each process know the unreadable images of all, within one budget. Raises DataError for more than it allows."""
    _, bad = ledger_of_all(run)
    ledger: Ledger = run.loader.ledger
    ledger.quarantined |= bad
    ledger.refuse_many(run.loader.samples, run.loader.data)
