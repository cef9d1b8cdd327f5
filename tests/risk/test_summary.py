"""Counts of persons, and calibration over ten equal bins."""

import math

import numpy as np
import pytest

from privacy_gate import metrics
from privacy_gate.datamodel import Audit
from privacy_gate.errors import NotEvaluable
from privacy_gate.risk.summary import CUTS, summarise


def audit_of(member, persons=None):
    n = len(member)
    persons = np.arange(n) if persons is None else np.array(persons)
    return Audit(np.array(member), np.zeros(n, dtype=np.int64), persons, ("a", "b"))


def test_counts_persons_not_records():
    """Person 0 has three records above the cut and counts once; one record is enough."""
    scores = np.array([0.9, 0.85, 0.95, 0.1, 0.81, 0.2, 0.3, 0.4])
    audit = audit_of([True] * 5 + [False] * 3, [0, 0, 0, 1, 1, 2, 3, 3])
    high = {h.score: h for h in summarise("x", scores, audit).high}
    assert tuple(high) == CUTS
    assert (high[0.8].members, high[0.8].nonmembers) == (2, 0)
    assert (high[0.9].members, high[0.9].nonmembers) == (1, 0)
    assert high[0.9].attributable == metrics.share_excess(1, 2, 0, 2)
    assert high[0.9].precision == metrics.precision(1, 2, 0, 2, prior=0.5)
    assert high[0.8].attributable.value == 1.0


def test_a_cut_is_reached_at_the_cut():
    high = summarise("x", np.array([1.0, 0.8, 0.5, 0.0]), audit_of([True, True, False, False])).high
    assert [(h.members, h.nonmembers) for h in high] == [(2, 1), (2, 0), (2, 0), (2, 0), (1, 0), (1, 0)]


def test_calibration_against_a_twin():
    rng = np.random.default_rng(1)
    member = rng.random(500) < 0.2
    scores = np.round(rng.random(500), 2)
    found = summarise("x", scores, audit_of(member))
    weight = [0.5 / member.sum() if m else 0.5 / (~member).sum() for m in member]
    gaps, masses, log_loss, brier = [], [], 0.0, 0.0
    for b in range(10):
        rows = [i for i in range(500) if min(int(scores[i] * 10), 9) == b]
        mass = sum(weight[i] for i in rows)
        gaps.append(sum(weight[i] * scores[i] for i in rows) / mass - sum(weight[i] for i in rows if member[i]) / mass)
        masses.append(mass)
    for i in range(500):
        p = min(max(scores[i], 1e-3), 1 - 1e-3)
        log_loss -= weight[i] * math.log(p if member[i] else 1 - p)
        brier += weight[i] * (scores[i] - member[i]) ** 2
    expected = {
        "rmse": math.sqrt(sum(g * g for g in gaps) / 10),
        "rmse_weighted": math.sqrt(sum(m * g * g for m, g in zip(masses, gaps, strict=True))),
        "ece": sum(m * abs(g) for m, g in zip(masses, gaps, strict=True)),
        "brier": brier,
        "log_loss": log_loss,
    }
    assert dict(found.calibration) == pytest.approx(expected, rel=1e-12)
    assert sum(records for *_, records in found.reliability) == 500


def test_members_and_nonmembers_weigh_alike_whatever_their_numbers():
    """Ten copies of every non-member change nothing."""
    rng = np.random.default_rng(2)
    member = np.arange(200) < 100
    scores = rng.random(200)
    copies = np.concatenate([np.arange(100), np.repeat(np.arange(100, 200), 10)])
    once = summarise("x", scores, audit_of(member)).calibration
    often = summarise("x", scores[copies], audit_of(member[copies])).calibration
    assert dict(often) == pytest.approx(dict(once), rel=1e-9)


def test_a_calibrated_forecast_has_no_error():
    """Scores of one half for as many members as non-members."""
    calibration = summarise("x", np.full(100, 0.5), audit_of(np.arange(100) < 50)).calibration
    assert dict(calibration) == pytest.approx(
        {"rmse": 0.0, "rmse_weighted": 0.0, "ece": 0.0, "brier": 0.25, "log_loss": math.log(2)}, abs=1e-12
    )


def test_certain_and_wrong_is_bad_but_finite():
    calibration = summarise("x", np.array([0.0, 1.0]), audit_of([True, False])).calibration
    assert calibration["log_loss"] == pytest.approx(-math.log(1e-3))
    assert calibration["brier"] == 1.0


@pytest.mark.parametrize("member", [[True, True], [False, False]])
def test_refuses_one_sided_records(member):
    with pytest.raises(NotEvaluable, match="one kind"):
        summarise("x", np.array([0.1, 0.2]), audit_of(member))


def test_persons_with_more_records_are_not_flagged_more_often():
    """5 % of member records and 0.5 % of others reach the cut; the others have ten records each."""
    rng = np.random.default_rng(0)
    persons = np.concatenate([np.arange(4000), 4000 + np.arange(40_000) // 10])
    member = np.arange(44_000) < 4000
    scores = np.where(rng.random(44_000) < np.where(member, 0.05, 0.005), 0.9, 0.3)
    audit = Audit(member, np.zeros(44_000, dtype=np.int64), persons, ("a", "b"), has_persons=True)
    (high,) = [row for row in summarise("test", scores, audit).high if row.score == 0.8]
    # Any-of-ten would flag 4.9 % of the others; sd of the excess of 4,000 against 4,000 persons: 0.0036.
    assert high.attributable.value == pytest.approx(0.045, abs=4 * 0.0036)
