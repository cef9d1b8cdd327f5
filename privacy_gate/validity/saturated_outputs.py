"""Answers of exactly 0 or 1, or with few digits, tie records together that finer answers would tell apart."""

from __future__ import annotations

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

    A few per cent blur a ranking. Once most records are tied, no threshold reaches a low false-positive rate, and what
    an attacker with the logits (or a temperature undone) would see stays hidden: then it cannot be a pass. A forest is
    coarse by nature, and so are its shadows; a target that is coarser than they are was rounded on the way.
    All records are counted, so the shares have no bounds.
    """
    name, takes = "saturated_outputs", Invalidates.PASS
    most = limit(c, name, HIDING)
    reason = f"{100 * c.saturated:.1f} % of the records have a true-class probability of exactly 0 or 1"
    if c.saturated > most:
        reason += "; their ranking is hidden: give logits (output: logits) or probabilities in float64"
        return Finding(name, "fail", takes, c.saturated, reason)
    block, coarser = _largest_block(c), _coarser(c)
    if block > most:
        reason += f"; {100 * block:.1f} % of the records get one and the same answer: give logits, or more digits"
        return Finding(name, "fail", takes, block, reason)
    if coarser > most:
        reason += (
            f"; {100 * coarser:.1f} % more records are tied by the target's answers than by the shadows': "
            "they were rounded on the way; name that under `defence:`, or give the answers unrounded"
        )
        return Finding(name, "fail", takes, coarser, reason)
    noticed = c.saturated > NOTICED or coarser > COARSER_NOTICED
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
    if signal is None or len(signal) == 0:
        return 0.0
    return float(np.unique(signal, return_counts=True)[1].max()) / len(signal)


def _coarser(c: Circumstances) -> float:
    """By how much more records the target ties than the shadow that ties most of the same records; 0 without any."""
    signal, references = c.observations.target.get(SIGNAL), c.observations.references.get(SIGNAL)
    if signal is None or references is None or len(references) == 0:
        return 0.0
    return max(tied(signal) - max(tied(row) for row in references), 0.0)
