"""What a promise is, and what holds for every world."""

import pkgutil

import numpy as np
import pytest
from scipy.stats import binom, norm

from privacy_gate import selftest
from privacy_gate.selftest import CATALOG, FEWEST, NIGHTLY, Promise


def test_rates_are_held_against_the_binomial():
    errors = [True] * 9 + [False] * 91
    promise = selftest.rarely("x", "", "", errors)
    assert promise.measured == 0.09
    assert promise.held
    limit = round(100 * promise.high)
    worst = selftest.ALPHA + selftest.APPROXIMATION
    assert binom.sf(limit, 100, worst) <= selftest.SURE < binom.sf(limit - 1, 100, worst)
    assert not selftest.rarely("x", "", "", [True] * (limit + 1) + [False] * (99 - limit)).held
    assert selftest.mostly("x", "", "", [True] * 95 + [False] * 5).held
    assert not selftest.mostly("x", "", "", [True] * 80 + [False] * 20).held
    assert not selftest.rarely("x", "", "", [True] + [False] * 99, 0.0, 0.0).held


def test_a_known_chance_is_held_from_both_sides():
    promise = selftest.about("x", "", "", [True] * 30 + [False] * 70, 0.3)
    low, high = round(100 * promise.low), round(100 * promise.high)
    half = selftest.SURE / 2
    assert binom.cdf(low, 100, 0.3) >= half > binom.cdf(low - 1, 100, 0.3)
    assert binom.sf(high, 100, 0.3) <= half < binom.sf(high - 1, 100, 0.3)
    assert promise.held
    assert not selftest.about("x", "", "", [True] * (high + 1) + [False] * (99 - high), 0.3).held
    assert not selftest.about("x", "", "", [True] * (low - 1) + [False] * (101 - low), 0.3).held
    assert selftest.about("x", "", "", [False] * 10, 0.0).held
    assert not selftest.about("x", "", "", [True] + [False] * 9, 0.0).held


def test_a_mean_is_held_against_its_own_error():
    values = [0.4, 0.6] * 50
    noise = norm.isf(selftest.SURE / 2) * np.std(values, ddof=1) / 10
    promise = selftest.near("x", "", "", values, 0.55, 0.02)
    assert (promise.low, promise.high) == pytest.approx((0.53 - noise, 0.57 + noise))
    assert promise.held
    assert not selftest.near("x", "", "", values, 0.60, 0.02).held
    assert selftest.no_more("x", "", "", values, 0.49).held
    assert not selftest.no_more("x", "", "", values, 0.50 - noise - 0.001).held


def test_worlds_are_found_by_their_files():
    modules = {module.name for module in pkgutil.iter_modules(selftest.__path__)} - {"models"}
    found = {CATALOG[id].run.__module__.rsplit(".", 1)[1] for id in CATALOG.names()}
    assert found == modules
    literature = {id.split()[0] for id in CATALOG.names() if id.startswith("K-")}
    assert literature == {f"K-{number:02d}" for number in range(1, 11)}


def test_sizes():
    for world in CATALOG:
        assert world.summary.endswith(".")
        assert world.replicates(NIGHTLY) in (NIGHTLY, 20)
        assert world.replicates(FEWEST) == FEWEST
        assert world.quick == 0 or FEWEST <= world.replicates(None) == world.quick <= NIGHTLY


def test_processes_do_not_change_a_number():
    chosen = ["K-02 persons", "K-03", "many attacks"]
    seen = []
    alone = list(selftest.run(10, 3, worlds=chosen))
    shared = list(selftest.run(10, 3, seen.append, jobs=2, worlds=chosen))
    assert alone == shared
    assert seen == [CATALOG[id].summary for id in chosen]
    assert len({promise.id for promise in alone}) == len(alone)


def test_a_world_of_no_replicates_is_left_out(monkeypatch):
    def run(seed, replicates):
        """A world."""
        yield Promise("x", "", "", 0.0, 0.0, 0.0, 1.0, replicates)

    monkeypatch.setattr(
        selftest, "CATALOG", FakeCatalog({"a": selftest.World("a", run, 0, 20, False),
                                          "b": selftest.World("b", run, 30, 10**6, False)})
    )  # fmt: skip
    assert [p.replicates for p in selftest.run()] == [30]
    assert [p.replicates for p in selftest.run(400)] == [20, 400]


class FakeCatalog(dict):
    def names(self):
        return sorted(self)
