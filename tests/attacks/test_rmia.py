"""RMIA against a twin that compares every pair, with ragged membership and saturated models."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_gate.attacks import CATALOG
from privacy_gate.attacks.rmia import GAMMA, OFFLINE_A, log_ratios, share_exceeded
from privacy_gate.errors import NotEvaluable
from tests.worlds import gaussian_world, half_of_the_persons


def naive(phi_target, phi, member, others):
    """Probability by probability, pair by pair."""
    p_target = [1 / (1 + math.exp(-v)) for v in phi_target]
    p = [[1 / (1 + math.exp(-v)) for v in row] for row in phi]
    ratio = []
    online = all(any(member[s][record] for s in range(len(p))) for record in range(len(p_target)))
    for record in range(len(p_target)):
        inside = [p[s][record] for s in range(len(p)) if member[s][record]]
        outside = [p[s][record] for s in range(len(p)) if not member[s][record]]
        mean_out = sum(outside) / len(outside)
        if online:
            marginal = (sum(inside) / len(inside) + mean_out) / 2
        else:
            marginal = ((1 + OFFLINE_A) * mean_out + 1 - OFFLINE_A) / 2
        ratio.append(p_target[record] / marginal)
    return [sum(ratio[x] / ratio[z] > GAMMA for z in others) / len(others) for x in range(len(ratio))]


@given(st.integers(0, 10_000), st.integers(1, 7), st.floats(0.0, 0.9))
@settings(max_examples=60, deadline=None)
def test_against_the_pairwise_twin_with_ragged_membership(seed, shadows, share):
    """The reference code needs exactly half of the models OUT; any mask with one OUT must do."""
    rng = np.random.default_rng(seed)
    member = rng.random((shadows, 25)) < share
    member[0] = False
    phi_target, phi = rng.normal(0, 3, size=25), rng.normal(0, 3, size=(shadows, 25))
    others = np.flatnonzero(rng.random(25) < 0.4) if shadows > 1 else np.arange(5)
    if not len(others):
        others = np.array([0])
    ratios = log_ratios(phi_target, phi, member)
    np.testing.assert_array_equal(share_exceeded(ratios, ratios[others]), naive(phi_target, phi, member, others))


def test_reads_revealed_nonmembers_only():
    seen, audit = gaussian_world(100, 100, classes=4, leak=2.0, shadows=8, seed=1)
    revealed = half_of_the_persons(audit, 2)
    score = CATALOG["rmia"].score(seen.reveal(audit.member, revealed))
    others = np.flatnonzero(revealed & ~audit.member)
    expected = naive(
        seen.target["logit_confidence"], seen.references["logit_confidence"], seen.reference_member, others
    )
    np.testing.assert_array_equal(score, expected)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_a_share_that_grows_with_the_targets_confidence(seed):
    """I-15: in [0, 1], monotone in p_target(x), invariant to scaling all target probabilities by a constant."""
    rng = np.random.default_rng(seed)
    member = rng.random((6, 20)) < 0.5
    member[0] = False
    phi_target, phi = rng.normal(0, 3, size=20), rng.normal(0, 3, size=(6, 20))
    ratios = log_ratios(phi_target, phi, member)
    z = ratios[10:]
    scores = share_exceeded(ratios, z)
    assert ((scores >= 0) & (scores <= 1)).all()
    raised = log_ratios(phi_target + rng.uniform(0, 5, size=20), phi, member)
    assert (share_exceeded(raised, z) >= scores).all()
    # A constant factor is a shift of all log ratios; 2^-10 is exact, so ties stay ties.
    grid = np.round(ratios * 2**20) / 2**20
    np.testing.assert_array_equal(
        share_exceeded(grid + 2.0**-10, grid[10:] + 2.0**-10), share_exceeded(grid, grid[10:])
    )


def test_saturated_probabilities_do_not_collapse():
    """p = 1 - e^-40 and 1 - e^-41 are both 1 in float64; their ratios to the references still differ."""
    phi_target = np.array([40.0, 41.0, 42.0, 300.0])
    phi = np.full((4, 4), 39.0)
    member = np.array([[True], [True], [False], [False]]) & np.ones((1, 4), dtype=bool)
    ratios = log_ratios(phi_target, phi, member)
    assert (np.diff(ratios[:3]) > 0).all()
    np.testing.assert_allclose(ratios[:3], math.exp(-39) - np.exp(-phi_target[:3]), rtol=1e-12)
    wrong = log_ratios(-phi_target, -phi, member)
    np.testing.assert_allclose(wrong, -phi_target + 39.0, rtol=1e-12)


def test_one_reference_is_enough():
    seen, audit = gaussian_world(40, 40, classes=3, leak=2.0, shadows=1, seed=3)
    everything = np.ones(seen.n, dtype=bool)
    scores = CATALOG["rmia"].score(seen.reveal(audit.member, everything))
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 10


def test_refuses_what_it_cannot_judge():
    seen, audit = gaussian_world(20, 20, classes=3, leak=2.0, shadows=4, seed=4)
    score = CATALOG["rmia"].score
    with pytest.raises(NotEvaluable, match="no revealed non-member"):
        score(seen.reveal(audit.member, audit.member))
    known = seen.reveal(audit.member, np.ones(seen.n, dtype=bool))
    with pytest.raises(NotEvaluable, match="every reference"):
        score(replace(known, reference_member=np.ones_like(seen.reference_member)))
    with pytest.raises(NotEvaluable, match="no reference models"):
        score(replace(known, references={}, reference_member=None))
