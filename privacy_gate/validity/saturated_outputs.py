"""Answers of exactly 0 or 1, or with few digits, tie records together that finer answers would tell apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from privacy_gate.datamodel import Finding, Floats, Invalidates
from privacy_gate.validity import Circumstances, check
from privacy_gate.validity.bounds import Status, limit

NOTICED = 0.01
HIDING = 0.50
COARSER_NOTICED = 0.10
SIGNAL = "logit_confidence"


@check(id="saturated_outputs", title="outputs are not saturated", invalidates=Invalidates.PASS)
def saturated_outputs(c: Circumstances) -> Finding:
    """Share of records whose true-class probability is exactly 0 or 1; and of those that a coarse output ties.

    Shadows that were trained alike and answer as coarsely show that it is the model's nature: what an attacker sees of
    it is what the gate saw.

    A few per cent blur a ranking. Once most records are tied, no threshold reaches a low false-positive rate, and what
    an attacker with the logits (or a temperature undone) would see stays hidden: then it cannot be a pass. A forest is
    coarse by nature, and so are its shadows; a target that is coarser than they are was rounded on the way.
    All records are counted, so the shares have no bounds.
    """
    name, takes = "saturated_outputs", Invalidates.PASS
    if SIGNAL not in c.observations.target:
        return Finding(name, "not_applicable", takes, None, "the model tells no scores that could be saturated")
    most = limit(c, name, HIDING)
    reason = f"{100 * c.saturated:.1f} % of the records have a true-class probability of exactly 0 or 1"
    if c.saturated > most and not _excused(c, _at_the_ends, c.saturated):
        reason += "; their ranking is hidden: give logits (output: logits) or probabilities in float64"
        return Finding(name, "fail", takes, c.saturated, reason)
    block, coarser = _largest_block(c), _coarser(c)
    if block > most and not _excused(c, _largest_of, block):
        reason += f"; {100 * block:.1f} % of the records get one and the same answer: give logits, or more digits"
        return Finding(name, "fail", takes, block, reason)
    if coarser > most:
        reason += (
            f"; {100 * coarser:.1f} % more records are tied by the target's answers than by the shadows': "
            "they were rounded on the way; name that under `defence:`, or give the answers unrounded"
        )
        return Finding(name, "fail", takes, coarser, reason)
    noticed = max(c.saturated, block if block > most else 0.0) > NOTICED or coarser > COARSER_NOTICED
    if max(c.saturated, block) > most:
        reason += "; shadows trained alike are as coarse, so this is the nature of such models"
    if coarser > COARSER_NOTICED:
        reason += f"; the target's answers tie {100 * coarser:.1f} % more records than the shadows' do"
    status: Status = "warn" if noticed else "pass"
    return Finding(name, status, takes, c.saturated, reason)


def tied(signal: Floats) -> float:
    """Share of the records [R] that share their value with an earlier one."""
    return 1.0 - len(np.unique(signal)) / len(signal) if len(signal) else 0.0


def _largest_block(c: Circumstances) -> float:
    """Share of the records that the most frequent value of the signal has."""
    signal = c.observations.target.get(SIGNAL)
    return 0.0 if signal is None or len(signal) == 0 else _largest_of(signal)


def _largest_of(signal: Floats) -> float:
    return float(np.unique(signal, return_counts=True)[1].max()) / len(signal)


def _at_the_ends(signal: Floats) -> float:
    """Share of the records [R] that have the largest or the smallest value."""
    return float(((signal == signal.max()) | (signal == signal.min())).mean())


def _excused(c: Circumstances, share: Callable[[Floats], float], own: float) -> bool:
    """Whether some shadow has as large a share, up to COARSER_NOTICED: then it is the nature of such models."""
    references = c.observations.references.get(SIGNAL)
    if references is None or references.size == 0:
        return False
    return own <= max(share(row) for row in references) + COARSER_NOTICED


def _coarser(c: Circumstances) -> float:
    """By how much more records the target ties than the shadow that ties most of the same records; 0 without any."""
    signal, references = c.observations.target.get(SIGNAL), c.observations.references.get(SIGNAL)
    if signal is None or references is None or len(references) == 0:
        return 0.0
    return max(tied(signal) - max(tied(row) for row in references), 0.0)
