"""The controls: they pass where the gate works, and fire where it does not."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from privacy_gate import measure as measuring
from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import Observations, ThreatModel
from privacy_gate.validity import CATALOG, controls
from privacy_gate.validity.controls import Side, direction, leaking, nonmembers_needed, null, simplest, sized
from tests.validity.worlds import STANDARD, circumstances, policy

WORLD = circumstances(n=1000)
RULES = {"accuracy": ("PG101", "attack.accuracy", 0.6), "auc": ("PG102", "attack.auc", 0.65)}
RULES["tpr"] = ("PG103", "attack.tpr_at_fpr_0.01", 0.05)


def run(check, world):
    return CATALOG[check].run(world)


def broken(monkeypatch, score, **changes):
    """The attack `confidence` with another score."""
    monkeypatch.setitem(ATTACKS._items, "confidence", replace(ATTACKS["confidence"], score=score, **changes))


class TestNull:
    def test_non_members_only_members_first(self):
        world = circumstances(n=300, records_per_person=3)
        drawn = null(world)
        assert not world.audit.member[drawn.rows].any()
        assert len(drawn.rows) == 300
        assert drawn.members == drawn.nonmembers == 50
        assert np.array_equal(drawn.audit.member, np.sort(drawn.audit.member)[::-1])
        assert np.array_equal(drawn.view.seen.labels, world.audit.labels[drawn.rows])
        # Persons keep their records together, and are numbered in the order in which they stand.
        assert len(np.unique(np.stack([drawn.audit.persons, world.audit.persons[drawn.rows]]), axis=1).T) == 100
        assert np.array_equal(np.unique(drawn.audit.persons, return_index=True)[1], np.arange(0, 300, 3))

    def test_is_drawn_by_lot_from_the_seed(self):
        first, again, other = (null(replace(WORLD, seed=seed)) for seed in (1, 1, 2))
        assert np.array_equal(first.rows, again.rows)
        assert not np.array_equal(first.rows, other.rows)

    def test_too_few(self):
        assert null(circumstances(n=19)) is None
        assert null(circumstances(n=20)) is not None
        for check in ("positive_control", "negative_control"):
            assert run(check, circumstances(n=19)).status == "warn"


class TestPlantedLeak:
    def test_whole_persons_move_beyond_all_others(self):
        world = circumstances(n=600, records_per_person=2)
        drawn = null(world)
        planted = leaking(drawn, 0.3, world.target_correct[drawn.rows], 0)
        before, after = (d.view.seen.target["logit_confidence"] for d in (drawn, planted))
        moved = before != after
        assert moved[drawn.audit.member].mean() == pytest.approx(0.3, abs=1 / 150)
        assert not moved[~drawn.audit.member].any()
        assert after[moved].min() > after[~moved].max()
        assert len(np.unique(after)) == len(np.unique(before))
        assert all(len(set(moved[drawn.audit.persons == p])) == 1 for p in np.unique(drawn.audit.persons))

    def test_signals_that_fall_with_confidence_fall(self):
        drawn = null(WORLD)
        confidence = drawn.view.seen.target["logit_confidence"]
        seen = replace(drawn.view.seen, target={"logit_confidence": confidence, "loss": np.exp(-confidence)})
        both = replace(drawn, view=replace(drawn.view, seen=seen))
        correct = WORLD.target_correct[drawn.rows]
        assert [direction(both, name, correct) for name in seen.target] == [1.0, -1.0]
        planted = leaking(both, 0.2, correct, 0).view.seen.target
        moved = planted["logit_confidence"] != confidence
        assert planted["loss"][moved].max() < planted["loss"][~moved].min()

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("n", [500, 1500])
    def test_the_size_is_the_smallest_that_has_the_power(self, rule, n):
        # The closed form, against what the gate's own bounds do: 40 draws, of which 99 % must exceed the limit; three
        # misses or more would have probability .006. A leak of half the size must not do as well.
        alpha = 0.05 / len(CATALOG) / 6
        leak = sized([RULES[rule]], Side(n, n), Side(n, n), alpha)
        if rule == "tpr" and n == 500:
            assert leak is None  # 500 non-members prove nothing about one in a hundred at this level
            return
        missed, missed_half = (self._misses(rule, n, share, alpha) for share in (leak.share, leak.share / 2))
        assert missed <= 2
        assert missed_half >= 3

    @staticmethod
    def _misses(rule, n, share, alpha):
        misses = 0
        for seed in range(40):
            scores = np.random.default_rng(seed).random(2 * n)
            scores[: math.ceil(share * n)] += 2
            seen = Observations({"s": scores}, np.zeros(2 * n, int), np.full(2 * n, -1, np.int8), np.arange(2 * n), 1)
            attack = replace(
                ATTACKS["confidence"],
                requires=frozenset({"s"}),
                score=lambda observed: observed.target["s"],
                threat_models=(ThreatModel.KNOWN_SUBSET,),
            )
            audit = replace(
                WORLD.audit,
                member=np.arange(2 * n) < n,
                labels=seen.labels,
                persons=seen.persons,
                classes=("all",),
            )
            result = measuring.measure(attack, measuring.View(seen, None), audit, seed)[0]
            measured = {"accuracy": result.accuracy, "auc": result.auc, "tpr": result.tpr_at_fpr[0.01]}[rule]
            misses += not measured.lower(alpha) > RULES[rule][2]
        return misses

    def test_the_rule_that_needs_least_is_taken(self):
        few, many = Side(500, 500.0), Side(5000, 5000.0)
        assert sized(list(RULES.values()), few, few, 1e-3).rule in ("PG101", "PG102")
        assert sized(list(RULES.values()), many, many, 1e-3).rule == "PG103"
        assert sized(list(RULES.values()), Side(10, 10.0), Side(10, 10.0), 1e-3) is None
        assert sized([], many, many, 1e-3) is None

    def test_how_many_would_do(self):
        needed = nonmembers_needed([RULES["tpr"]], 1e-3)
        assert sized([RULES["tpr"]], Side(needed // 2, needed / 2), Side(needed // 2, needed / 2), 1e-3) is not None
        fewer = int(needed / 2 / 1.15)
        assert sized([RULES["tpr"]], Side(fewer, fewer), Side(fewer, fewer), 1e-3) is None
        assert nonmembers_needed([("PG101", "attack.accuracy", 1.0)], 1e-3) is None


class TestPositiveControl:
    def test_finds_the_leak(self):
        finding = run("positive_control", WORLD)
        assert finding.status == "pass"
        assert "PG101" in finding.reason or "PG102" in finding.reason

    def test_vector_signals_are_let_be(self):
        """A signal of several numbers per record has no direction to be moved in, and no control is read from it."""
        seen = WORLD.view.seen
        target = {**seen.target, "log_probabilities": np.stack([seen.target["logit_confidence"]] * 3, axis=1)}
        view = replace(WORLD.view, seen=replace(seen, target=target))
        suite = ("nasr_nn", "confidence")
        assert simplest(suite, view).id == "confidence"
        found = CATALOG["positive_control"].run(replace(WORLD, view=view, observations=view.seen, suite=suite))
        assert found.status == "pass"

    def test_an_attack_that_says_the_same_of_all_makes_it_fire(self, monkeypatch):
        broken(monkeypatch, lambda seen: np.zeros(seen.n))
        assert run("positive_control", WORLD).status == "fail"

    def test_an_attack_that_has_its_sign_wrong_makes_it_fire(self, monkeypatch):
        broken(monkeypatch, lambda seen: -seen.target["logit_confidence"])
        assert run("positive_control", WORLD).status == "fail"

    def test_an_attack_that_crashes_makes_it_fire(self, monkeypatch):
        broken(monkeypatch, lambda seen: seen.target["nothing"])
        assert run("positive_control", WORLD).status == "fail"

    def test_a_judge_that_never_fails_makes_it_fire(self, monkeypatch):
        judge = controls.judge
        monkeypatch.setattr(controls, "judge", lambda policy, evidence: judge(policy, replace(evidence, attacks=())))
        monkeypatch.setattr(controls, "blocking", lambda policy, rules: [RULES["accuracy"]])
        assert run("positive_control", WORLD).status == "fail"

    def test_no_power_is_no_fault(self):
        finding = run("positive_control", replace(circumstances(n=200), policy=policy("PG103")))
        assert finding.status == "warn"
        assert "about power" in finding.reason
        assert "would do" in finding.reason

    def test_nothing_to_exceed_and_nothing_to_judge_by(self):
        assert run("positive_control", replace(WORLD, policy=policy("PG201"))).status == "warn"
        assert run("positive_control", replace(WORLD, suite=("correctness",))).status == "warn"
        for check in ("positive_control", "negative_control"):
            for nothing in ({"policy": None}, {"view": None}, {"suite": ()}):
                assert run(check, replace(WORLD, **nothing)).status == "not_applicable"

    def test_the_cheapest_attack_is_taken(self):
        assert simplest(("correctness", "lira", "confidence"), WORLD.view).id == "confidence"
        assert simplest(("lira",), WORLD.view) is None

    def test_misses_at_its_rate(self):
        # 99 % power each: of 60 worlds, three or more misses have probability .02 if it is just that; the closed form
        # is on the safe side.
        fired = [run("positive_control", circumstances(n=400, shadows=0, seed=s)).status == "fail" for s in range(60)]
        assert sum(fired) <= 2


class TestNegativeControl:
    def test_finds_nothing(self):
        assert run("negative_control", replace(WORLD, suite=("confidence", "lira"))).status == "pass"

    def test_a_leak_is_none_of_its_business(self):
        target = {"logit_confidence": WORLD.observations.target["logit_confidence"] + 9 * WORLD.audit.member}
        observations = replace(WORLD.observations, target=target)
        leaky = replace(WORLD, observations=observations, view=replace(WORLD.view, seen=observations))
        assert run("negative_control", leaky).status == "pass"

    def test_an_attack_that_reads_the_order_of_the_records_makes_it_fire(self, monkeypatch):
        broken(monkeypatch, lambda seen: -np.arange(seen.n, dtype=float))
        assert run("negative_control", WORLD).status == "pass"  # records are shuffled before an attack sees them
        monkeypatch.setattr(measuring, "_score", lambda attack, observations, seed: attack.score(observations))
        assert run("negative_control", WORLD).status == "fail"

    def test_an_attack_that_is_told_the_answer_makes_it_fire(self, monkeypatch):
        broken(monkeypatch, lambda seen: (seen.known == 1).astype(float), reads_known=True)
        assert run("negative_control", WORLD).status == "pass"  # what is withheld cannot be read
        reveal = Observations.reveal
        monkeypatch.setattr(
            Observations, "reveal", lambda self, member, where: reveal(self, member, np.ones_like(where))
        )
        assert run("negative_control", WORLD).status == "fail"

    def test_persons_that_are_not_known_to_be_one_do_not_matter_to_a_lot(self):
        # Ten equal records per person, taken for ten persons: a lot among records tells nothing all the same.
        world = circumstances(n=1000, records_per_person=10)
        apart = replace(world, audit=replace(world.audit, persons=np.arange(2000)))
        assert run("negative_control", apart).status == "pass"

    def test_no_attack_that_runs(self):
        assert run("negative_control", replace(circumstances(n=500, shadows=0), suite=("lira",))).status == "warn"

    def test_fires_no_more_often_than_its_level(self):
        # Limits are far above chance, so it should never fire: one in 60 has probability below .2 at its whole level
        # of .05/16, and the limit of .60 is four standard errors away.
        worlds = (circumstances(n=400, shadows=0, seed=s, policy=STANDARD) for s in range(60))
        assert sum(run("negative_control", world).status == "fail" for world in worlds) <= 1


def test_unequal_persons_count_for_less():
    side = Side.of(np.array([0] * 8 + [1, 2]))
    assert side.persons == 3
    assert side.units == pytest.approx(100 / 66)


def test_the_stray_of_a_fitted_threshold_by_simulation():
    # P(the maximum of a Brownian motion with drift -mu lies beyond q) <= 2 Phi(-mu sqrt(q)), at 20,000 steps.
    rng = np.random.default_rng(0)
    mu, q, steps = 2.0, 0.8, 400
    walks = np.cumsum(rng.normal(-mu / steps, steps**-0.5, (4000, 4 * steps)), axis=1)
    beyond = (walks.argmax(axis=1) + 1) / steps > q
    bound = 2 * norm.sf(mu * math.sqrt(q))
    assert beyond.mean() <= bound + 3 * math.sqrt(bound * (1 - bound) / 4000)
