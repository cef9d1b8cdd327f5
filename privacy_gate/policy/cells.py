"""The hypotheses about attacks that several rules share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import norm

from privacy_gate import metrics
from privacy_gate.datamodel import (
    AttackFailed,
    AttackResult,
    AttackSkipped,
    Evidence,
    Measurement,
    ThreatModel,
    threat_told,
)
from privacy_gate.policy.contract import Cell, Effort, LimitSettings, Measured

MOST_RECORDS = 10_000_000  # from here on, "get more records" is no advice


def results(evidence: Evidence) -> list[AttackResult]:
    """The attacks that ran to their end."""
    return [outcome for outcome in evidence.attacks if isinstance(outcome, AttackResult)]


def measured(cells: Sequence[Cell], evidence: Evidence) -> Measured:
    """The cells of attacks, with the reason if there are none."""
    broken = any(isinstance(outcome, AttackFailed) for outcome in evidence.attacks)
    return Measured(tuple(cells), nothing=absences(evidence), broken=broken)


def absences(evidence: Evidence) -> str:
    """Why there is nothing to measure: what happened to each attack."""
    said = [
        f"{outcome.id} {'crashed' if isinstance(outcome, AttackFailed) else 'was skipped'}: {outcome.reason}"
        for outcome in evidence.attacks
        if isinstance(outcome, AttackFailed | AttackSkipped)
    ]
    return "; ".join(dict.fromkeys(said)) or "no attack ran that measures it"


def decision_cells(evidence: Evidence, limit: float, measure: Callable[[AttackResult], Measurement]) -> Measured:
    """One cell per attack, threat model and threshold scope: for metrics of decisions."""
    return measured([Cell(name_of(r, scope=True), measure(r), limit, r.id) for r in results(evidence)], evidence)


def ranking_cells(evidence: Evidence, limit: float, measure: Callable[[AttackResult], Measurement | None]) -> Measured:
    """One cell per ranking of the records: for metrics of scores, which no threshold scope changes.

    The same ranking seen under several scopes is one hypothesis; counting it once keeps the correction honest.
    """
    kept: list[tuple[AttackResult, Cell]] = []
    for r in results(evidence):
        measurement = measure(r)
        if measurement is None:
            continue
        cell = Cell(name_of(r, scope=False), measurement, limit, r.id)
        if not any(_same(r, cell, *other) for other in kept):
            kept.append((r, cell))
    return measured([cell for _, cell in kept], evidence)


def tpr_cells(settings: LimitSettings, evidence: Evidence, fpr: float) -> Measured:
    """Cells of the true-positive rate at a low false-positive rate; no pass without a reference attack."""

    def tpr(r: AttackResult) -> Measurement | None:
        return next((m for at, m in r.tpr_at_fpr.items() if math.isclose(at, fpr)), None)

    found = ranking_cells(evidence, settings.max, tpr)
    if any(r.threat_model is ThreatModel.REFERENCE and tpr(r) is not None for r in results(evidence)):
        return found
    # On Location30 metric attacks show 0.5 % where a reference attack of the same accuracy shows 59 %.
    withheld = "a pass needs a reference attack such as lira: metric attacks are blind at low false-positive rates"
    return replace(found, withheld=withheld)


def name_of(r: AttackResult, *, scope: bool) -> str:
    """Attack, threat model if it has a threshold and, if it matters, the scope of that."""
    parts = [r.id, *threat_told(r.threat_model, r.threshold)]
    if scope and r.threshold is not None:
        parts.append(r.threshold.value)
    if not r.adaptive:
        parts.append("non-adaptive")
    return ", ".join(parts)


def _same(r: AttackResult, cell: Cell, other: AttackResult, other_cell: Cell) -> bool:
    return (
        r.id == other.id
        and np.array_equal(r.scores, other.scores)
        and same_numbers(cell.measurement, other_cell.measurement)
    )


def same_numbers(a: Measurement, b: Measurement) -> bool:
    """Whether two measurements cannot be told apart by what is asked of them."""
    same_value = a.value == b.value
    return a is b or (same_value and a.lower(0.01) == b.lower(0.01) and a.upper(0.05) == b.upper(0.05))


# --- how many records decide ------------------------------------------------------------------------------------------


def both(count: float) -> dict[str, int]:
    """The same number on both sides; {} if nobody has so many."""
    return {"members": math.ceil(count), "nonmembers": math.ceil(count)} if count < MOST_RECORDS else {}


def z_sum(effort: Effort) -> float:
    """z(1 - alpha) + z(power)."""
    return float(norm.isf(effort.alpha) + norm.ppf(effort.power))


def needed_for_accuracy(settings: LimitSettings, effort: Effort) -> dict[str, int]:
    """Members and non-members that decide a balanced accuracy; {} if it is at the limit."""
    assumed = 0.5 if effort.assumed is None else effort.assumed
    return both(metrics.records_for_accuracy(settings.max, assumed, effort.alpha, effort.power))


def needed_for_auc(settings: LimitSettings, effort: Effort) -> dict[str, int]:
    """Members and non-members that decide an AUC; variance of Hanley & McNeil (1982), equal sides."""
    auc = 0.5 if effort.assumed is None else effort.assumed
    gap = abs(settings.max - auc)
    # Leading term of the variance times n: Q1 + Q2 - 2 AUC², with Q1 = AUC/(2 - AUC), Q2 = 2 AUC²/(1 + AUC).
    spread = max(auc / (2 - auc) + 2 * auc**2 / (1 + auc) - 2 * auc**2, 0.0)
    return both(spread * (z_sum(effort) / gap) ** 2 + 1) if gap > 1e-6 else {}


def needed_for_tpr(settings: LimitSettings, effort: Effort, fpr: float) -> dict[str, int]:
    """Members and non-members that decide a true-positive rate: the fewest in all, from the members there are up.

    What seems to be above the limit is decided by proof that it is, all else by a pass; {} if nobody has so many.
    """
    # An attack below chance was unlucky: the next records will not be.
    assumed = fpr if effort.assumed is None else max(effort.assumed, fpr)
    count = metrics.nonmembers_to_fail_tpr if assumed > settings.max else metrics.nonmembers_to_pass_tpr
    best: tuple[int, int] | None = None
    members = max(effort.members, 1)
    while members < (MOST_RECORDS if best is None else sum(best)):
        nonmembers = count(fpr, settings.max, effort.alpha, members, assumed)
        if nonmembers is not None and (best is None or members + nonmembers < sum(best)):
            best = members, nonmembers
        members *= 2
    return {} if best is None else {"members": best[0], "nonmembers": best[1]}
