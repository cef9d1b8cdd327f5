"""Three disguises. The worst over the families refuses all three of them; no family alone does.

All of it at the level of answers: real models are asked and probed, the policy is `standard` as it is, and the attacks
are those of the suite `full`. What no model here can give (copies of images) is skipped, as on any table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

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
from privacy_gate.selftest.models import balanced
from privacy_gate.signals import PROBES
from tests.label_only_world import label_only_world, records

STANDARD = resolve("standard")
FULL = suite("full")
FAMILIES = {f: [a for a in FULL if ATTACKS[a].family == f] for f in sorted({ATTACKS[a].family for a in FULL})}
COLUMNS = 6
SHADOWS = 6
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
    see the record has some 100 of 1,200 members at four to one odds or better, where 1 % is allowed.
    """
    return keepers(1200, 0.3, decoy=False)[:2]


def decoy() -> tuple[Answers, Audit]:
    """K-9: all records are kept, so members get 100 % right, others 70 %; how sure the model says it is, is noise.

    The gap is an accuracy of 0.65 with a standard deviation of sqrt(0.3 * 0.7 / 600) / 2 = 0.009: five of them above
    the limit, where correcting for a few hundred hypotheses costs 3.6.
    """
    return keepers(600, 1.0, decoy=True)[:2]


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


def families_of(disguise: str) -> Judged:
    answers, audit = DISGUISES[disguise]()
    observed = observe(answers, audit, FULL)
    # The validity checks see the attacks that learn nothing: repeating those that do would say nothing new here.
    swift = [id for id in FULL if not ATTACKS[id].reads_known]
    done = evaluate(observed, audit, swift, 0, candidates=len(audit.labels), policy=STANDARD)
    slow = [o for id in FULL if id not in swift for o in measure(ATTACKS[id], observed.views[0], audit, 0)]
    whole = replace(done.evidence, attacks=(*done.evidence.attacks, *slow))
    whole = only(whole, observed, audit, FULL)
    alone = {family: judge(STANDARD, only(whole, observed, audit, ids)) for family, ids in FAMILIES.items()}
    return Judged(whole, judge(STANDARD, whole), alone)


def only(whole: Evidence, observed: Observed, audit: Audit, ids: list[str]) -> Evidence:
    """The evidence of a gate that has these attacks and no others: its risk scores come from them, too.

    The rule on required attacks stays in force: it cannot refuse a model, only withhold a pass.
    """
    view, attacks = observed.views[0], tuple(o for o in whole.attacks if o.id in ids)
    scores = {o.id: o.scores for o in attacks if isinstance(o, AttackResult)}
    found = ESTIMATORS["calibrated"].assess(RiskInput(view.seen, view.pool, scores, audit, 0))
    return replace(whole, attacks=attacks, risk=summarise("calibrated", found.scores, audit, 0, found.interval))


@pytest.fixture(scope="module", params=sorted(DISGUISES))
def judged(request: pytest.FixtureRequest, results: dict[str, Judged]) -> Judged:
    return results.setdefault(request.param, families_of(request.param))


@pytest.fixture(scope="module")
def results() -> dict[str, Judged]:
    return {}


def rule(verdict: Verdict, id: str) -> RuleOutcome:
    return next(outcome for outcome in verdict.rules if outcome.id == id)


def test_the_worst_over_the_families_refuses_it(judged: Judged) -> None:
    assert judged.verdict.status is VerdictStatus.FAIL, judged.verdict.headline
    assert not [o for o in judged.whole.attacks if not isinstance(o, AttackResult | AttackSkipped)]
    assert {o.id for o in judged.whole.attacks if isinstance(o, AttackSkipped)} == {"augmentation"}  # images only
    assert [f.check for f in judged.whole.findings if f.status == "fail"] == []


def refusing(judged: Judged) -> set[str]:
    return {family for family, verdict in judged.alone.items() if verdict.status is VerdictStatus.FAIL}


def test_no_family_alone_refuses_all_three(results: dict[str, Judged], capsys: pytest.CaptureFixture[str]) -> None:
    for name in DISGUISES:
        results.setdefault(name, families_of(name))
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


def test_the_blind_are_not_undecided_but_reassured(results: dict[str, Judged]) -> None:
    """A gate of one family would call these models safe on average: its upper bounds are within the limits."""
    for name, sees in (("K-5", "reference"), ("label-only", "label-only")):
        alone = results.setdefault(name, families_of(name)).alone
        for family in set(FAMILIES) - {sees}:
            assert rule(alone[family], "PG101").status is RuleStatus.PASS, (name, family)
            if family != "correctness":  # which ranks nothing
                assert rule(alone[family], "PG102").status is RuleStatus.PASS, (name, family)
    for family in set(FAMILIES) - {"reference", "correctness"}:
        named = rule(results["K-5"].alone[family], "PG103")
        assert named.high is not None
        assert named.limit is not None
        assert named.high <= named.limit, family  # the pass is withheld, and rightly: no reference attack ran
        assert "needs a reference attack" in named.reason


def test_the_averages_do_not_see_who_is_memorised(results: dict[str, Judged]) -> None:
    """With every attack of the suite, accuracy and AUC of K-5 hold; the rules on single records refuse it."""
    verdict = results.setdefault("K-5", families_of("K-5")).verdict
    assert [rule(verdict, id).status for id in ("PG101", "PG102")] == [RuleStatus.PASS] * 2
    assert rule(verdict, "PG201").status is RuleStatus.FAIL
