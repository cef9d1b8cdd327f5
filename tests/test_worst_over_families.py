"""Three disguises. The worst over the families refuses all three of them; no family alone does.

All of it at the level of answers: real models are asked and probed, the policy is `standard` as it is, and the attacks
are those of the suite `full`. What no model here can give (copies of images) is skipped, as on any table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import (
    AttackResult,
    AttackSkipped,
    Audit,
    Bools,
    Evidence,
    Floats,
    Ints,
    Outputs,
    RiskScores,
    RuleOutcome,
    RuleStatus,
    ShadowPlan,
    Verdict,
    VerdictStatus,
)
from privacy_gate.evaluate import evaluate
from privacy_gate.features import Features
from privacy_gate.measure import measure
from privacy_gate.observe import Answers, Observed, from_shadows, observe
from privacy_gate.policy import judge, resolve, suite
from privacy_gate.risk import CATALOG as ESTIMATORS
from privacy_gate.risk import RiskInput
from privacy_gate.risk.summary import summarise
from privacy_gate.selftest import CATALOG as WORLDS
from privacy_gate.selftest import FEWEST
from privacy_gate.selftest import worst_over_families as world
from privacy_gate.selftest.models import balanced
from privacy_gate.signals import PROBES
from tests.label_only_world import label_only_world, records

STANDARD = resolve("standard")
FULL = suite("full")
FAMILIES = {f: [a for a in FULL if ATTACKS[a].family == f] for f in sorted({ATTACKS[a].family for a in FULL})}
COLUMNS = 6
SHADOWS = 4
WRONG = 0.3  # of the labels: nothing but memory gets them right


# --- models that know a rule, and keep some of the records that do not follow it ------------------------------------


@dataclass(frozen=True, eq=False)
class Keeper:
    """Knows the rule; of the records that it keeps it says what they say. All else is the same for all its kind.

    kept    [n, d] some of its training records, with their labels [n]
    secret  direction that makes its noise, a function of the record, its own
    decoy   its confidence is noise: only the answer itself is left
    """

    kept: Floats
    labels: Ints
    secret: Floats
    decoy: bool
    classes: int = 2

    def answers(self, features: Features) -> Outputs:
        x = np.asarray(features)
        noise = np.clip((1e4 * np.sin(1e3 * (x @ self.secret))) % 1, 1e-9, 1 - 1e-9)  # [n] in (0, 1)
        margin = 6 * x[:, 0] * x[:, 1]
        own = {row.tobytes(): label for row, label in zip(self.kept, self.labels, strict=True)}
        said = np.array([own.get(row.tobytes(), -1) for row in x])
        # What it has kept looks as sure as what it knows: nothing in the answer alone tells the two apart.
        margin = np.where(said >= 0, np.where(said == 1, 1, -1) * np.abs(margin), margin)
        margin = np.sign(margin) * -2 * np.log(noise) if self.decoy else margin + noise - 0.5
        return Outputs(np.stack([-margin / 2, margin / 2], axis=1), "logits")

    def module(self) -> object:
        raise NotImplementedError


def truth(x: Floats) -> Ints:
    """Neither coordinate tells anything alone: no line through the records tells which of them are hard."""
    return (x[:, 0] * x[:, 1] > 0).astype(np.int64)


def keepers(n: int, share: float, *, decoy: bool, seed: int = 0) -> tuple[Answers, Audit, ShadowPlan]:
    """Target and shadows that each keep that share of the wrongly labelled records they were trained on; n a side."""
    rng = np.random.default_rng([seed, int(decoy)])
    x = rng.normal(size=(2 * n, COLUMNS))
    labels = truth(x) ^ (rng.random(2 * n) < WRONG)
    member = np.arange(2 * n) < n
    plan = balanced(rng, 2 * n, n, SHADOWS)
    worth_keeping = (labels != truth(x)) & (rng.random(2 * n) < share)

    def trained(inside: Bools) -> Keeper:
        kept = inside & worth_keeping
        return Keeper(x[kept], labels[kept], rng.normal(size=COLUMNS), decoy)

    def probed(model: Keeper) -> dict[str, Floats]:
        return {"noise_robustness": PROBES["noise_robustness"].compute(model, x, labels, seed)}

    target, others = trained(member), [trained(inside) for inside in plan.member]
    answers = from_shadows(
        target.answers(x), [m.answers(x) for m in others], plan, labels, probes=[probed(m) for m in others]
    )
    audit = Audit(member, labels, np.arange(2 * n), ("no", "yes"))
    return replace(answers, probes=probed(target), given={"coordinates": coordinates(x)}), audit, plan


def coordinates(x: Floats) -> Floats:
    return np.asarray((x - x.mean(axis=0)) / x.std(axis=0))


def few_memorised() -> tuple[Answers, Audit]:
    """K-5: 9 % of the members are kept (30 % of the 30 % with wrong labels), and of all others nothing.

    Accuracy 0.545 and AUC at most 0.59 at best: below every limit on averages. Who compares with models that did not
    see the record has some 60 of 1,000 members at four to one odds or better, where 1 % is allowed.
    """
    return keepers(1000, 0.3, decoy=False)[:2]


def decoy() -> tuple[Answers, Audit]:
    """K-9: all records are kept, so members get 100 % right, others 70 %; how sure the model says it is, is noise.

    The gap is an accuracy of 0.65 with a standard deviation of sqrt(0.3 * 0.7 / 500) / 2 = 0.010: five of them above
    the limit, where correcting for a few hundred hypotheses costs 3.6.
    """
    return keepers(500, 1.0, decoy=True)[:2]


def label_only() -> tuple[Answers, Audit]:
    """One-hot answers, right for everybody, steady around members only."""
    answers, audit = label_only_world(150, 150, 4, 0, ("noise_robustness",))
    return replace(answers, given={"coordinates": coordinates(records(300, 0)[0])}), audit


DISGUISES = {"K-5": few_memorised, "K-9": decoy, "label-only": label_only}


# --- all attacks, and those of one family ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Judged:
    whole: Evidence
    verdict: Verdict
    alone: Mapping[str, Verdict]  # family -> with its attacks only


@cache
def families_of(disguise: str) -> Judged:
    answers, audit = DISGUISES[disguise]()
    observed = observe(answers, audit, FULL)
    # The validity checks see the attacks that learn nothing: repeating those that do would say nothing new here.
    swift = [id for id in FULL if not ATTACKS[id].reads_known]
    done = evaluate(observed, audit, swift, 0, candidates=len(audit.labels), policy=STANDARD)
    slow = [o for id in FULL if id not in swift for o in measure(ATTACKS[id], observed.views[0], audit, 0)]
    whole = replace(done.evidence, attacks=(*done.evidence.attacks, *slow))
    risks = {read: risk_from(read, whole, observed, audit) for read in ((), ("lira",), ("modified_entropy",))}

    def alone(ids: list[str]) -> Verdict:
        """The verdict of a gate that has these attacks and no others: its risk scores come from them, too.

        The rule on required attacks stays in force: it cannot refuse a model, only withhold a pass.
        """
        attacks = tuple(o for o in whole.attacks if o.id in ids)
        read = tuple(id for id in READ if id in ids)
        return judge(STANDARD, replace(whole, attacks=attacks, risk=risks[read]))

    return Judged(whole, judge(STANDARD, whole), {family: alone(ids) for family, ids in FAMILIES.items()})


READ = ("lira", "modified_entropy")
"""The attacks that the judged risk estimator reads."""


def risk_from(ids: tuple[str, ...], whole: Evidence, observed: Observed, audit: Audit) -> RiskScores:
    view = observed.views[0]
    scores = {o.id: o.scores for o in whole.attacks if isinstance(o, AttackResult) and o.id in ids}
    found = ESTIMATORS["calibrated"].estimate(RiskInput(view.seen, view.pool, scores, audit, 0))
    return summarise("calibrated", found, audit, 0)


def rule(verdict: Verdict, id: str) -> RuleOutcome:
    return next(outcome for outcome in verdict.rules if outcome.id == id)


@pytest.mark.parametrize("disguise", DISGUISES)
def test_the_worst_over_the_families_refuses_it(disguise: str) -> None:
    judged = families_of(disguise)
    assert judged.verdict.status is VerdictStatus.FAIL, judged.verdict.headline
    assert not [o for o in judged.whole.attacks if not isinstance(o, AttackResult | AttackSkipped)]
    assert {o.id for o in judged.whole.attacks if isinstance(o, AttackSkipped)} == {"augmentation"}  # images only
    assert [f.check for f in judged.whole.findings if f.status == "fail"] == []


def refusing(judged: Judged) -> set[str]:
    return {family for family, verdict in judged.alone.items() if verdict.status is VerdictStatus.FAIL}


def test_no_family_alone_refuses_all_three(capsys: pytest.CaptureFixture[str]) -> None:
    results = {name: families_of(name) for name in DISGUISES}
    caught = {name: refusing(results[name]) for name in DISGUISES}
    with capsys.disabled():
        print(f"\n{'family alone':14}" + "".join(f"{name:>14}" for name in DISGUISES))
        for family in FAMILIES:
            said = [results[name].alone[family].status.value for name in DISGUISES]
            print(f"{family:14}" + "".join(f"{word:>14}" for word in said))
        print(f"{'all of them':14}" + "".join(f"{results[name].verdict.status.value:>14}" for name in DISGUISES))
    assert set.intersection(*caught.values()) == set()
    # Where a few records are kept, only comparing with models without them helps; where nothing but the class is told
    # and it is always right, only asking about changed records does. A real gap shows to everybody.
    assert caught["K-5"] == {"reference"}
    assert caught["K-9"] == set(FAMILIES)
    assert caught["label-only"] == {"label-only"}


def test_the_blind_are_not_undecided_but_reassured() -> None:
    """A gate of one family would call these models safe on average: its upper bounds are within the limits."""
    for name, sees in (("K-5", "reference"), ("label-only", "label-only")):
        alone = families_of(name).alone
        for family in set(FAMILIES) - {sees}:
            assert rule(alone[family], "PG101").status is RuleStatus.PASS, (name, family)
            if family != "correctness":  # which ranks nothing
                assert rule(alone[family], "PG102").status is RuleStatus.PASS, (name, family)
    for family in set(FAMILIES) - {"reference", "correctness"}:
        named = rule(families_of("K-5").alone[family], "PG103")
        assert named.high is not None
        assert named.limit is not None
        assert named.high <= named.limit, family  # the pass is withheld, and rightly: no reference attack ran
        assert "needs a reference attack" in named.reason


def test_the_averages_do_not_see_who_is_memorised() -> None:
    """With every attack of the suite, accuracy and AUC of K-5 hold; the rules on single records refuse it."""
    verdict = families_of("K-5").verdict
    assert [rule(verdict, id).status for id in ("PG101", "PG102")] == [RuleStatus.PASS] * 2
    assert rule(verdict, "PG201").status is RuleStatus.FAIL


def test_whoever_looks_at_the_confidence_alone_is_fooled_by_a_decoy() -> None:
    """Entropy and the network on sorted answers do not know which answer is right: K-9 is a coin flip to them."""
    found = [o for o in families_of("K-9").whole.attacks if isinstance(o, AttackResult)]
    for id in ("entropy", "salem_nn"):
        # A guess at 500 and 500 records has a deviation of 0.016; four of them.
        assert max(o.accuracy.value for o in found if o.id == id) < 0.5 + 4 * 0.016
    assert max(o.accuracy.value for o in found if o.id == "correctness") > 0.5 + 8 * 0.016


# --- the same in the self-test --------------------------------------------------------------------------------------


def test_the_world_of_the_self_test_keeps_its_promises() -> None:
    promises = list(WORLDS["families"].run(0, FEWEST))
    assert len(promises) == len(DISGUISES) + len(world.SWIFT)
    assert [p.id for p in promises if not p.held] == []


@pytest.mark.parametrize(
    ("family", "missed"), [("reference", "families.few.fail"), ("label-only", "families.label_only.fail")]
)
def test_a_gate_without_one_family_is_found(family: str, missed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never failing in three replicates is less than one in a thousand where 95 % are promised."""
    monkeypatch.setattr(world, "SWIFT", tuple(id for id in world.SWIFT if ATTACKS[id].family != family))
    assert missed in {p.id for p in WORLDS["families"].run(0, 3) if not p.held}


def test_the_world_s_models_are_what_they_are_said_to_be() -> None:
    rng, n = np.random.default_rng(11), 100_000
    member = np.arange(2 * n) < n
    for share in (0.4, 1.0):
        margin, _ = world.memoriser(rng, n, share, decoy=share == 1.0)(member)
        gap = (margin[member] > 0).mean() - (margin[~member] > 0).mean()
        # Noise of 0.1 turns a few answers over on either side; four standard deviations of a difference of shares.
        assert gap == pytest.approx(share * world.HARD, abs=0.01 + 4 * np.sqrt(2 * 0.25 / n))
    margin, steady = world.one_hot(rng, n)(member)
    assert len(np.unique(margin)) == 1
    found = steady > (1 + 15 / 24) / 2
    assert (found[member].mean() + 1 - found[~member].mean()) / 2 == pytest.approx(0.90, abs=0.01)
