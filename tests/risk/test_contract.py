"""What every risk estimator owes."""

from dataclasses import replace

import numpy as np
import pytest

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.risk import CATALOG, Estimator, RiskInput
from tests.worlds import auc, gaussian_world, pool_of, reordered

every_estimator = pytest.mark.parametrize("estimator", list(CATALOG), ids=CATALOG.names())


def case(leak, seed=1, n=300):
    seen, audit = gaussian_world(n, n, classes=4, leak=leak, shadows=8, seed=seed)
    scores = {name: ATTACKS[name].score(seen) for name in ("lira", "modified_entropy")}
    return RiskInput(seen, pool_of(seen), scores, audit, seed=0)


def test_the_catalog_is_found():
    assert {"song2021", "calibrated"} <= set(CATALOG.names())


@every_estimator
def test_a_probability_per_record(estimator: Estimator):
    given = case(3.0)
    scores = estimator.estimate(given)
    assert scores.shape == (given.target.n,)
    assert scores.dtype == np.float64
    assert ((scores >= 0) & (scores <= 1)).all()


@every_estimator
def test_members_of_a_leaky_model_are_at_risk(estimator: Estimator):
    given = case(3.0)
    assert auc(estimator.estimate(given), given.audit.member) > 0.7


@every_estimator
def test_pure_and_reproducible(estimator: Estimator):
    given = case(2.0)
    before = {name: values.copy() for name, values in given.target.target.items()}
    np.testing.assert_array_equal(estimator.estimate(given), estimator.estimate(given))
    assert all(np.array_equal(before[name], given.target.target[name]) for name in before)


@every_estimator
def test_the_order_of_records_does_not_matter(estimator: Estimator):
    """Persons keep their numbers, so they keep their folds."""
    given = case(2.0, n=100)
    order = np.random.default_rng(3).permutation(given.target.n)
    audit = replace(
        given.audit,
        member=given.audit.member[order],
        labels=given.audit.labels[order],
        persons=given.audit.persons[order],
    )
    shuffled = replace(
        given,
        target=reordered(given.target, order),
        scores={name: values[order] for name, values in given.scores.items()},
        audit=audit,
    )
    np.testing.assert_allclose(estimator.estimate(shuffled), estimator.estimate(given)[order], rtol=1e-7)


@every_estimator
def test_renaming_classes_changes_nothing(estimator: Estimator):
    given = case(2.0, n=100)
    new = np.array([2, 0, 3, 1])
    assert given.pool is not None
    renamed = replace(
        given,
        target=replace(given.target, labels=new[given.target.labels]),
        pool=replace(given.pool, labels=new[given.pool.labels]),
        audit=replace(given.audit, labels=new[given.audit.labels]),
    )
    # Sums over classes are taken in the order of their names: the last digits may differ.
    np.testing.assert_allclose(estimator.estimate(renamed), estimator.estimate(given), rtol=1e-7)


@every_estimator
def test_says_what_it_is(estimator: Estimator):
    assert any(char.isdigit() for char in estimator.paper), "a paper has a year"
    if not estimator.needs_pool:
        assert len(estimator.estimate(replace(case(1.0), pool=None))) == 600
