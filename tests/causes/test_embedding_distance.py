import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from privacy_gate.causes.association import generator
from privacy_gate.causes.embedding_distance import embedding_distance, energy_distance
from tests.causes.worlds import looked_at


def test_against_its_definition():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(40, 3)) * [1, 10, 0.1]
    first = np.arange(40) < 15
    z = points / points.std(axis=0)
    x, y = z[first], z[~first]
    expected = 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()
    assert energy_distance(points, first, generator(0, 1)).statistic == pytest.approx(expected)


def test_p_values_without_a_difference_are_uniform():
    p = []
    for seed in range(60):
        points = np.random.default_rng(seed).normal(size=(40, 2))
        p.append(energy_distance(points, np.arange(40) < 20, generator(seed, 1)).p_value)
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_a_constant_coordinate_does_no_harm():
    points = np.column_stack([np.random.default_rng(1).normal(size=40), np.ones(40)])
    assert np.isfinite(energy_distance(points, np.arange(40) < 20, generator(0, 1)).statistic)


def test_the_classes_that_lie_apart_are_named():
    given = looked_at(n=300, classes=3, leak=0.0, shadows=0)
    moved = given.embedding.copy()
    moved[given.audit.member & (given.audit.labels == 1)] += 2.0
    object.__setattr__(given, "embedding", moved)
    found = embedding_distance(given)
    assert [row.numbers["apart"] for row in found.rows] == [0.0, 1.0, 0.0]
    assert found.value == pytest.approx(1 / 3)
    assert found.p_value <= 0.003 + 1e-12
    assert "In 1 of 3 classes" in found.reason


def test_persons_count_once():
    """Copies of each person's record make no evidence."""
    rejections = 0
    for seed in range(10):
        given = looked_at(n=120, classes=2, leak=0.0, shadows=0, seed=seed, each=6)
        audit = given.audit
        per_person = np.random.default_rng(seed).normal(size=(int(audit.persons.max()) + 1, 2))
        object.__setattr__(given, "embedding", per_person[audit.persons])
        found = embedding_distance(given)
        rejections += found is not None and found.p_value <= 0.05
    # Ten at 5 %: four or more come up once in 1,000 runs.
    assert rejections <= 3
