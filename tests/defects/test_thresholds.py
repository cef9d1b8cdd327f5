"""Thresholds: ties in the order of the data, empty classes, unweighted classes, fitted where they are counted."""

import itertools

import numpy as np
import pytest

from privacy_gate import thresholds
from privacy_gate.datamodel import Scope
from privacy_gate.errors import NotEvaluable
from privacy_gate.selftest import answer_key, halves, measured, result
from tests.defects import recreated


def test_ties_do_not_depend_on_the_order_of_the_records():
    members, others = np.array([6.0, 4.0, 2.0]), np.array([5.0, 3.0, 1.0])
    theirs = {recreated.first_best_threshold(np.array(order), others) for order in itertools.permutations(members)}
    assert len(theirs) > 1
    ours = set()
    for order in itertools.permutations(range(6)):
        scores, member = np.concatenate([members, others])[list(order)], halves(3)[list(order)]
        ours.add(float(thresholds.fit(scores, member, np.zeros(6, dtype=np.int64), 1, Scope.CLASS).values[0]))
    assert ours == {6.0}  # the fewest positives among equals


def test_an_empty_class_is_told_and_pooled_not_silently_zero():
    scores = np.array([-3.0, -2.5, -3.5, -4.0, -1.0])
    labels, member = np.array([0, 0, 0, 0, 1]), np.array([True, True, False, False, False])
    assert recreated.first_best_threshold(scores[member & (labels == 1)], scores[~member & (labels == 1)]) == 0.0
    found = thresholds.fit(scores, member, labels, 2, Scope.CLASS)
    assert found.pooled == (1,)
    assert found.values[1] == thresholds.fit(scores, member, labels, 2, Scope.GLOBAL).values[0] != 0.0


def accuracy(decided, member):
    return (decided[member].mean() + (~decided[~member]).mean()) / 2


def test_class_thresholds_without_weights_lose_to_one_threshold():
    inside, outside = [[0, 3, 4, 4], [3, 4, 5, 5, 5, 5, 4, 5]], [[0, 0, 4, 2, 4, 2, 5, 0], [4, 0, 0, 4]]
    member, labels = np.arange(24) < 12, np.repeat([0, 1, 0, 1], [4, 8, 8, 4])
    scores = np.concatenate([*inside, *outside]).astype(float)
    theirs = np.array([recreated.first_best_threshold(np.array(inside[c]), np.array(outside[c])) for c in (0, 1)])
    assert accuracy(scores >= theirs[labels], member) == pytest.approx(0.7083, abs=5e-5)
    ours = thresholds.fit(scores, member, labels, 2, Scope.CLASS_WEIGHTED)
    assert accuracy(ours.decide(scores, labels), member) >= 0.75


def test_thresholds_are_not_counted_where_they_were_fitted():
    """Nothing leaks: one threshold fitted on what it decides says 51.4 %, thirty say 57 %; ours say 50 %."""
    runs, n, classes = 40, 1000, 30
    one, many, ours = [], [], []
    for r in range(runs):
        rng = np.random.default_rng([1, r])
        scores, audit, labels = rng.normal(size=2 * n), answer_key(halves(n)), rng.integers(0, classes, 2 * n)
        one.append(recreated.best_on_the_evaluated(scores, audit.member))
        many.append(recreated.best_on_the_evaluated_per_class(scores, audit.member, labels))
        ours.append(result(measured({"simulated": scores}, audit, r)).accuracy.value)
    assert np.mean(one) == pytest.approx(0.514, abs=0.003)  # its deviation is 0.007, that of the mean 0.0011
    assert np.mean(many) == pytest.approx(0.570, abs=0.005)
    # An honest accuracy has the deviation sqrt(.25 / 2000) = 0.0112 at most; 4 of the mean of 40 are 0.0071.
    assert np.mean(ours) == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / (2 * n) / runs))


def test_the_best_of_many_epochs_is_not_counted_where_it_was_chosen():
    """Twenty epochs that guess: the best one looks better than chance where it was chosen, and only there."""
    runs, n, epochs = 40, 500, 20
    theirs, ours = [], []
    for r in range(runs):
        rng = np.random.default_rng([2, r])
        member = halves(n)
        decided = rng.random((epochs, 2 * n)) < 0.5
        theirs.append(max(accuracy(d, member) for d in decided))
        (folds,) = thresholds.person_folds(member, np.arange(2 * n), r, repeats=1)
        kept = np.zeros(2 * n, dtype=bool)
        for here in folds:
            best = max(range(epochs), key=lambda e: accuracy(decided[e][~here], member[~here]))
            kept[here] = decided[best][here]
        ours.append(accuracy(kept, member))
    deviation = np.sqrt(0.25 / (2 * n))
    # The largest of 20 normal numbers lies 1.87 deviations above their mean.
    assert np.mean(theirs) == pytest.approx(0.5 + 1.87 * deviation, abs=0.5 * deviation)
    assert np.mean(ours) == pytest.approx(0.5, abs=4 * deviation / np.sqrt(runs))


# --- what a mutation run found untested -----------------------------------------------------------------------------


@pytest.mark.parametrize(("member", "missing"), [([False, False], "members"), ([True, True], "non-members")])
def test_the_missing_side_is_named(member, missing):
    with pytest.raises(NotEvaluable, match=rf"no {missing} to fit"):
        thresholds.fit(np.array([0.0, 1.0]), np.array(member), np.zeros(2, dtype=np.int64), 1, Scope.GLOBAL)


def test_one_nan_among_many_scores_is_found():
    from privacy_gate.errors import EvaluationFailed

    for place in range(5):
        scores = np.arange(5.0)
        scores[place] = np.nan
        with pytest.raises(EvaluationFailed, match="1 of 5"):
            thresholds.fit(scores, np.arange(5) < 2, np.zeros(5, dtype=np.int64), 1, Scope.GLOBAL)


def test_as_many_persons_as_folds_are_enough_and_one_fewer_is_not():
    member = np.array([True, True, False, False])
    (folds,) = thresholds.person_folds(member, np.arange(4), 0, repeats=1)
    assert all(here[member].sum() == here[~member].sum() == 1 for here in folds)
    with pytest.raises(NotEvaluable, match="1 persons among the non-members"):
        thresholds.person_folds(member[:3], np.arange(3), 0, repeats=1)
    with pytest.raises(NotEvaluable, match="1 persons among the members"):
        thresholds.person_folds(~member[:3], np.array([0, 0, 1]), 0, repeats=1)


def test_the_largest_persons_are_dealt_first():
    """Two persons of 100 records and one of 1: the small one comes last, so no fold gets both large ones."""
    persons = np.repeat(np.arange(6), [100, 100, 1, 100, 100, 1])
    for folds in thresholds.person_folds(halves(201), persons, 3, repeats=10):
        assert all({int(here[:201].sum()), int(here[201:].sum())} <= {100, 101} for here in folds)
