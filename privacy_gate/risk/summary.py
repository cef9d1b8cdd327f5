"""From scores per record to what the report shows and the policy judges: counts of persons, and calibration."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from privacy_gate import metrics
from privacy_gate.datamodel import Audit, Bools, Floats, HighRisk, RiskScores
from privacy_gate.errors import NotEvaluable

CUTS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_DRAW_STREAM = 3  # keeps this draw apart from every other use of the run's seed

BINS = 10  # of equal width, for calibration
CERTAIN = 1e-3  # scores are clipped to [CERTAIN, 1 - CERTAIN] in the log loss: a score of 0 or 1 would make it infinite


def summarise(estimator_id: str, scores: Floats, audit: Audit, seed: int = 0) -> RiskScores:
    """What an estimator's scores [R] come to, given the answer key. Raises NotEvaluable without both kinds of records.

    A person is high-risk when one of its records, drawn at random, reaches the cut: with "any of its records", persons
    with more records would be flagged more often, and the excess over non-members would measure that. Calibration
    weighs members and non-members alike, whatever their numbers, because scores are stated at prior one half.
    """
    member = audit.member
    if member.all() or not member.any():
        raise NotEvaluable("risk: records of one kind only", "members and non-members are both needed")
    bins = _bins(scores, member)
    drawn = _one_record_each(audit, seed)
    return RiskScores(
        estimator=estimator_id,
        scores=scores,
        high=tuple(_high_risk(scores, audit, drawn, cut) for cut in CUTS),
        calibration=_calibration(scores, member, bins),
        reliability=tuple((mean, share, records) for mean, share, records, _ in bins),
    )


def _high_risk(scores: Floats, audit: Audit, drawn: Bools, cut: float) -> HighRisk:
    reached = scores >= cut
    members, others = drawn & audit.member, drawn & ~audit.member
    hits_in, in_total = int((members & reached).sum()), int(members.sum())
    hits_out, out_total = int((others & reached).sum()), int(others.sum())
    return HighRisk(
        score=cut,
        members=hits_in,
        nonmembers=hits_out,
        attributable=metrics.share_excess(hits_in, in_total, hits_out, out_total),
        precision=metrics.precision(hits_in, in_total, hits_out, out_total, prior=0.5),
    )


def _one_record_each(audit: Audit, seed: int) -> Bools:
    """[R] one random record of each person and side."""
    order = np.random.default_rng([_DRAW_STREAM, seed]).permutation(len(audit.member))
    _, first = np.unique(audit.persons[order] * 2 + audit.member[order], return_index=True)
    drawn = np.zeros(len(order), dtype=np.bool_)
    drawn[order[first]] = True
    return drawn


def _weights(member: Bools) -> Floats:
    return np.asarray(np.where(member, 0.5 / member.sum(), 0.5 / (~member).sum()))


def _bins(scores: Floats, member: Bools) -> list[tuple[float, float, int, float]]:
    """Per bin that is not empty: mean score, member share at prior one half, records, weight (sums to 1)."""
    weight = _weights(member)
    places = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    bins = []
    for b in np.unique(places):
        here = places == b
        mass = float(weight[here].sum())
        mean = float((weight * scores)[here].sum()) / mass
        bins.append((mean, float(weight[here & member].sum()) / mass, int(here.sum()), mass))
    return bins


def _calibration(scores: Floats, member: Bools, bins: list[tuple[float, float, int, float]]) -> Mapping[str, float]:
    weight = _weights(member)
    gap = np.array([mean - share for mean, share, _, _ in bins])
    mass = np.array([mass for *_, mass in bins])
    truth = np.where(member, np.clip(scores, CERTAIN, 1 - CERTAIN), 1 - np.clip(scores, CERTAIN, 1 - CERTAIN))
    return {
        "rmse": float(np.sqrt(np.mean(gap**2))),
        "rmse_weighted": float(np.sqrt((mass * gap**2).sum())),
        "ece": float((mass * np.abs(gap)).sum()),
        "brier": float((weight * (scores - member) ** 2).sum()),
        "log_loss": float(-(weight * np.log(truth)).sum()),
    }
