"""Worlds whose leakage is known exactly, judged by the gate's own code: does it keep its promises?

Each world draws replicates and sends them through `measure` or `evaluate` and then `judge`, as `pipeline` does; the
rates of error are compared with those that the gate promises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm

from privacy_gate.attacks import Attack
from privacy_gate.datamodel import (
    WITHHELD,
    AttackOutcome,
    AttackResult,
    Audit,
    Bools,
    Evidence,
    Floats,
    Observations,
    Outputs,
    RuleStatus,
    Scope,
    ShadowPlan,
    ThreatModel,
    Verdict,
)
from privacy_gate.errors import ExitCode
from privacy_gate.evaluate import evaluate
from privacy_gate.measure import View, measure
from privacy_gate.observe import from_shadows, observe
from privacy_gate.policy import CATALOG as RULES
from privacy_gate.policy import Policy, RuleInForce, judge, resolve, suite
from privacy_gate.thresholds import fit

ALPHA = 0.05  # what the gate promises, for either error
APPROXIMATION = 0.01  # MOVER-Wilson at nominal 0.05, enumerated: 0.053 with 1,000 records a side, up to 0.061 with 200
SURE = 1e-3  # chance that a promise which is kept looks broken, per promise
POWER = 0.95  # what is demanded where the truth is far from the limit
_FEW = 40  # replicates where the outcome is nearly certain

Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise and what was found.

    id         of the promise, stable
    world      the simulated world, in words
    promise    what is promised
    measured   rate or mean over the replicates
    nominal    what it should be: at most, at least, or just this
    low, high  where `measured` must lie: the nominal value, widened by what chance does in so many replicates
    """

    id: str
    world: str
    promise: str
    measured: float
    nominal: float
    low: float
    high: float
    replicates: int

    @property
    def held(self) -> bool:
        """Whether the promise was kept."""
        return bool(self.low <= self.measured <= self.high)


# --- what a world is made of ----------------------------------------------------------------------------------------


def _attack(id: str = "simulated") -> Attack:
    """An attack whose score is given: what it truly achieves is known."""
    return Attack(
        id=id,
        family="reference",
        paper="",
        requires=frozenset({id}),
        threat_models=(ThreatModel.REFERENCE,),
        cost="",
        score=lambda observations: observations.target[id],
    )


def _audit(member: Bools, persons: NDArray[np.int64] | None = None) -> Audit:
    labels = np.zeros(len(member), dtype=np.int64)
    people = np.arange(len(member)) if persons is None else persons
    return Audit(member.copy(), labels, people, ("all",), has_persons=persons is not None)


def _observations(scores: Mapping[str, Floats], audit: Audit) -> Observations:
    known = np.full(len(audit.member), WITHHELD, dtype=np.int8)
    return Observations(scores, audit.labels, known, audit.persons, len(audit.classes))


def _measured(scores: Mapping[str, Floats], audit: Audit, seed: int) -> list[AttackOutcome]:
    view = View(_observations(scores, audit), None)
    return [outcome for id in scores for outcome in measure(_attack(id), view, audit, seed)]


def _result(outcomes: Sequence[AttackOutcome]) -> AttackResult:
    """The result with one threshold for all records."""
    return next(o for o in outcomes if isinstance(o, AttackResult) and o.threshold is Scope.GLOBAL)


def _evidence(outcomes: Sequence[AttackOutcome], audit: Audit, seed: int) -> Evidence:
    inside, outside = (audit.persons[side] for side in (audit.member, ~audit.member))
    people = (len(np.unique(inside)), len(np.unique(outside)))
    return Evidence(tuple(outcomes), None, (), len(inside), len(outside), *people, seed=seed)


def _policy(limits: Mapping[str, float]) -> Policy:
    """A policy of these rules alone."""
    rules = [RuleInForce(id, RULES[id].settings.model_validate({"max": limit}), None) for id, limit in limits.items()]
    return Policy("selftest", None, "", {}, {}, tuple(rules), alpha_pass=ALPHA, alpha_fail=ALPHA)


def _status(verdict: Verdict, rule: str) -> RuleStatus:
    return next(outcome.status for outcome in verdict.rules if outcome.id == rule)


def _halves(n: int) -> Bools:
    return np.asarray(np.arange(2 * n) < n)


# --- promises about rates and about numbers -------------------------------------------------------------------------


def _rarely(
    id: str, world: str, promise: str, happened: Sequence[bool], at_most: float = ALPHA + APPROXIMATION
) -> Promise:
    """An error with probability at most `at_most`; a one-sided binomial test at level SURE."""
    n = len(happened)
    return Promise(id, world, promise, sum(happened) / n, ALPHA, 0.0, float(binom.isf(SURE, n, at_most)) / n, n)


def _mostly(id: str, world: str, promise: str, happened: Sequence[bool], at_least: float = POWER) -> Promise:
    """A success with probability at least `at_least`."""
    n = len(happened)
    return Promise(id, world, promise, sum(happened) / n, at_least, float(binom.ppf(SURE, n, at_least)) / n, 1.0, n)


def _near(id: str, world: str, promise: str, values: Sequence[float], truth: float, slack: float) -> Promise:
    """A mean at `truth`, but for `slack` of known bias and the error of the mean of so many replicates."""
    drawn = np.asarray(values)
    noise = float(norm.isf(SURE / 2)) * float(drawn.std(ddof=1)) / math.sqrt(len(drawn))
    mean = float(drawn.mean())
    low, high = float(truth - slack - noise), float(truth + slack + noise)
    return Promise(id, world, promise, mean, float(truth), low, high, len(drawn))


# --- K-1: two normal distributions ----------------------------------------------------------------------------------

_SHIFT_POOL = 10_000  # members and non-members each, whose scores set the shadow thresholds


def _gaussian(rng: Rng, n: int, shift: float) -> tuple[Floats, Bools]:
    member = _halves(n)
    return rng.normal(size=2 * n) + shift * member, member


def gaussian_shift(seed: int, replicates: int) -> Iterator[Promise]:
    """K-1: member scores N(d, 1), others N(0, 1); accuracy, AUC and the whole ROC curve have closed forms."""
    n, fpr = 1000, 0.01
    for shift in (0.5, 2.0):
        world = f"K-1: normal scores, members shifted by {shift:g}"
        accuracy, auc, tpr = (float(norm.cdf(x)) for x in (shift / 2, shift / math.sqrt(2), shift - norm.isf(fpr)))
        results: list[AttackResult] = []
        achieved: list[float] = []
        for r in range(replicates):
            rng = np.random.default_rng([seed, 1, int(10 * shift), r])
            scores, member = _gaussian(rng, n, shift)
            pooled, pooled_member = _gaussian(rng, _SHIFT_POOL, shift)
            audit, pool = _audit(member), _audit(pooled_member)
            attack = replace(_attack(), threat_models=(ThreatModel.SHADOW,))
            answered = _observations({"simulated": pooled}, pool).reveal(pooled_member, np.ones_like(pooled_member))
            view = View(_observations({"simulated": scores}, audit), answered)
            results.append(_result(measure(attack, view, audit, r)))
            # A threshold from a finite pool is not quite the best one; its true accuracy is known all the same.
            t = float(fit(pooled, pooled_member, pool.labels, 1, Scope.GLOBAL).values[0])
            achieved.append(float(norm.cdf(t) + norm.sf(t - shift)) / 2)
        # The (k+1)-th highest of n non-members has the mean rank (k+1)/(n+1), a little above k/n.
        bias = float(norm.cdf(shift - norm.isf((int(fpr * n) + 1) / (n + 1)))) - tpr
        loss = accuracy - float(np.mean(achieved))
        accuracies, tprs = [r.accuracy for r in results], [r.tpr_at_fpr[fpr] for r in results]
        name = f"K-1.{shift:g}"
        yield _near(
            f"{name}.accuracy", world, f"accuracy is {accuracy:.5f}", [a.value for a in accuracies], accuracy, loss
        )
        yield _near(f"{name}.auc", world, f"AUC is {auc:.5f}", [_auc(r) for r in results], auc, 0.0)
        yield _near(f"{name}.tpr", world, f"TPR at 1 % FPR is {tpr:.5f}", [t.value for t in tprs], tpr, bias)
        for what, measured, truths in (("accuracy", accuracies, achieved), ("TPR", tprs, [tpr] * replicates)):
            sides = [
                (m.upper(ALPHA) < truth, m.lower(ALPHA) > truth) for m, truth in zip(measured, truths, strict=True)
            ]
            for side, wrong in zip(("upper", "lower"), zip(*sides, strict=True), strict=True):
                yield _rarely(f"{name}.{what.lower()}.{side}", world, f"the {side} bound of the {what} is wrong", wrong)


def _auc(result: AttackResult) -> float:
    assert result.auc is not None
    return result.auc.value


# --- K-2: randomised response ---------------------------------------------------------------------------------------


def _responses(rng: Rng, member: Bools, accuracy: float) -> Floats:
    """A truthful bit with probability `accuracy`: every attacker's best balanced accuracy is exactly that."""
    truthful = rng.random(len(member)) < accuracy
    return np.asarray(np.where(truthful, member, ~member), dtype=np.float64)


def _judged(scores: Mapping[str, Floats], audit: Audit, limits: Mapping[str, float], seed: int) -> Verdict:
    return judge(_policy(limits), _evidence(_measured(scores, audit, seed), audit, seed))


def randomised_response(seed: int, replicates: int) -> Iterator[Promise]:
    """K-2: the best accuracy is known exactly, at the limit, above it and below it."""
    n, limit = 1000, 0.6
    codes: dict[float, list[int]] = {}
    for accuracy, times in ((0.55, _FEW), (limit, replicates), (0.65, _FEW)):
        codes[accuracy] = []
        for r in range(times):
            rng = np.random.default_rng([seed, 2, int(100 * accuracy), r])
            audit = _audit(_halves(n))
            scores = {"simulated": _responses(rng, audit.member, accuracy)}
            codes[accuracy].append(_judged(scores, audit, {"PG101": limit}, r).exit_code)
    world = "K-2: randomised response of accuracy "
    at = codes[limit]
    exact = world + "0.60, limit 0.60"
    yield _rarely("K-2.false_pass", exact, "a model at the limit passes", [c == ExitCode.PASS for c in at])
    yield _rarely("K-2.false_fail", exact, "a model at the limit fails", [c == ExitCode.VIOLATED for c in at])
    fails = [c == ExitCode.VIOLATED for c in codes[0.65]]
    yield _mostly("K-2.fail", world + "0.65, limit 0.60", "a model beyond the limit fails", fails)
    passes = [c == ExitCode.PASS for c in codes[0.55]]
    yield _mostly("K-2.pass", world + "0.55, limit 0.60", "a model within the limit passes", passes)


def persons(seed: int, replicates: int) -> Iterator[Promise]:
    """K-2 with several records per person, all saying the same: persons are the evidence, not records."""
    people, each, limit = 600, 5, 0.6
    codes = []
    for r in range(replicates):
        rng = np.random.default_rng([seed, 3, r])
        member = np.repeat(_halves(people), each)
        audit = _audit(member, np.repeat(np.arange(2 * people), each))
        scores = np.repeat(_responses(rng, _halves(people), limit), each)
        codes.append(_judged({"simulated": scores}, audit, {"PG101": limit}, r).exit_code)
    world = "K-2: five equal records per person, accuracy 0.60, limit 0.60"
    yield _rarely("K-2.persons.false_pass", world, "a model at the limit passes", [c == ExitCode.PASS for c in codes])
    yield _rarely("K-2.persons.false_fail", world, "a model at the limit fails", [c == 1 for c in codes])


def many_attacks(seed: int, replicates: int) -> Iterator[Promise]:
    """Eight correlated attacks: however many are tried, errors stay at their rates."""
    attacks, n, limit, correlation = 8, 500, 0.6, 0.7
    all_at: list[int] = []
    one_at: list[int] = []
    for r in range(replicates):
        rng = np.random.default_rng([seed, 4, r])
        audit = _audit(_halves(n))
        common = rng.normal(size=2 * n)
        own = rng.normal(size=(attacks, 2 * n))
        noise = math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own
        for codes, accuracies in ((all_at, [limit] * attacks), (one_at, [limit] + [0.5] * (attacks - 1))):
            truthful = noise < np.asarray(norm.ppf(accuracies))[:, None]
            said = np.where(truthful, audit.member, ~audit.member).astype(np.float64)
            scores = {f"simulated_{i}": bits for i, bits in enumerate(said)}
            codes.append(_judged(scores, audit, {"PG101": limit}, r).exit_code)
    world = "eight correlated attacks, limit 0.60: "
    wrong = [c == ExitCode.VIOLATED for c in all_at]
    yield _rarely("many.false_fail", world + "all at 0.60", "a model at the limit fails", wrong)
    wrong = [c == ExitCode.PASS for c in one_at]
    yield _rarely("many.false_pass", world + "one at 0.60, seven guess", "a model at the limit passes", wrong)


# --- K-3: a mean that was published ---------------------------------------------------------------------------------


def mean_release(seed: int, replicates: int) -> Iterator[Promise]:
    """K-3: the "model" is the mean of the records, with or without noise; its inner product tells members."""
    # AUC = Phi(snr / sqrt 2) with snr = sqrt(d) (1/n) / sqrt(1/n + s^2) is an approximation, good to 0.015.
    for n, d, noise in ((100, 100, 0.0), (100, 1000, 0.1)):
        truth = norm.cdf(math.sqrt(d) / n / math.sqrt(1 / n + noise**2) / math.sqrt(2))
        values = []
        for r in range(replicates):
            rng = np.random.default_rng([seed, 5, d, r])
            records = rng.normal(size=(2 * n, d))
            released = records[:n].mean(axis=0) + noise * rng.normal(size=d)
            audit = _audit(_halves(n))
            values.append(_auc(_result(_measured({"simulated": records @ released}, audit, r))))
        world = f"K-3: mean of {n} records of {d} dimensions, noise {noise:g}"
        yield _near(f"K-3.{d}", world, f"AUC is about {truth:.3f}", values, truth, 0.015)


# --- K-5 and low false-positive rates -------------------------------------------------------------------------------


def memoriser(seed: int, replicates: int) -> Iterator[Promise]:
    """K-5: two members in a hundred are stored and betrayed for certain; of all others nothing is known."""
    n, share, limits = 6000, 0.02, {"PG101": 0.55, "PG104": 0.01}
    verdicts = []
    for r in range(replicates):
        rng = np.random.default_rng([seed, 6, r])
        audit = _audit(_halves(n))
        stored = audit.member & (rng.random(2 * n) < share)
        scores = np.where(stored, 1.0 + rng.random(2 * n), rng.random(2 * n))
        verdicts.append(_judged({"simulated": scores}, audit, limits, r))
    world = "K-5: 2 % of the members are memorised"
    blind = [_status(v, "PG101") is RuleStatus.PASS for v in verdicts]
    yield _mostly("K-5.accuracy", world, "accuracy (0.51) does not see them", blind)
    seen = [_status(v, "PG104") is RuleStatus.FAIL for v in verdicts]
    yield _mostly("K-5.tpr", world, "the TPR at 0.1 % FPR does", seen)


def low_false_positives(seed: int, replicates: int) -> Iterator[Promise]:
    """K-1, with the shift that puts the TPR at 1 % FPR exactly at its limit."""
    n, limit = 2000, 0.05
    shift = norm.isf(0.01) - norm.isf(limit)
    found = []
    for r in range(replicates):
        scores, member = _gaussian(np.random.default_rng([seed, 7, r]), n, shift)
        audit = _audit(member)
        found.append(_status(_judged({"simulated": scores}, audit, {"PG103": limit}, r), "PG103"))
    world = "K-1: TPR at 1 % FPR of 0.05, limit 0.05"
    yield _rarely("tpr.false_pass", world, "a model at the limit passes", [s is RuleStatus.PASS for s in found], ALPHA)
    yield _rarely("tpr.false_fail", world, "a model at the limit fails", [s is RuleStatus.FAIL for s in found], ALPHA)


# --- the whole street, with shadows ---------------------------------------------------------------------------------

_SHADOWS = 8


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    """A world of models: every record has a difficulty of its own, and being trained on raises its logit."""

    n: int  # members, and as many non-members
    leak: float  # added to the true class's logit of training records
    shift: float = 0.0  # members are easier by this, whoever was trained on them

    def draw(self, rng: Rng) -> tuple[Outputs, tuple[Outputs, ...], ShadowPlan, Audit]:
        """Answers of target and shadows to two classes, which record trained which shadow, and the answer key."""
        member = _halves(self.n)
        labels = rng.integers(0, 2, 2 * self.n)
        ease = rng.normal(1.5, 1.0, 2 * self.n) + self.shift * member
        inside = np.argsort(rng.random((_SHADOWS, 2 * self.n)), axis=0) < _SHADOWS // 2
        plan = ShadowPlan(
            kind="balanced",
            member=inside,
            pool=np.ones(2 * self.n, dtype=np.bool_),
            seeds=np.arange(_SHADOWS),
            train_size=self.n,
        )
        audit = Audit(member, labels, np.arange(2 * self.n), ("no", "yes"))

        def answer(trained: Bools) -> Outputs:
            margin = ease + rng.normal(0.0, 1.0, 2 * self.n) + self.leak * trained
            signed = np.where(labels == 1, margin, -margin)
            return Outputs(np.stack((-signed / 2, signed / 2), axis=1), "logits")

        return answer(member), tuple(answer(mask) for mask in inside), plan, audit


def _walk(world: _Model, rng: Rng, policy: Policy, seed: int) -> Verdict:
    """The street from the models' answers to the verdict."""
    target, shadows, plan, audit = world.draw(rng)
    attacks = suite("full")
    observed = observe(from_shadows(target, shadows, plan, audit.labels), audit, attacks, None)
    done = evaluate(observed, audit, attacks, seed, candidates=len(audit.labels), plan=plan)
    return judge(policy, done.evidence)


def whole_street(seed: int, replicates: int) -> Iterator[Promise]:
    """Target and shadows with all attacks of the suite `full`, judged by the profile `standard`."""
    policy = resolve("standard")

    def codes(leak: float, n: int) -> list[int]:
        draws = (np.random.default_rng([seed, 8, int(10 * leak), r]) for r in range(replicates))
        return [_walk(_Model(n, leak), rng, policy, r).exit_code for r, rng in enumerate(draws)]

    world = f"a model that leaks nothing, 2,500 members, {_SHADOWS} shadows"
    null = codes(0.0, 2500)
    yield _rarely("null.fail", world, "it fails the standard profile", [c == ExitCode.VIOLATED for c in null])
    passed = [c == ExitCode.PASS for c in null]
    yield _mostly("null.pass", world, "it passes the standard profile", passed, 0.9)
    world = f"training records have logits higher by 2, 1,000 members, {_SHADOWS} shadows"
    failed = [c == ExitCode.VIOLATED for c in codes(2.0, 1000)]
    yield _mostly("leak.fail", world, "it fails the standard profile", failed)


def shifted_members(seed: int, replicates: int) -> Iterator[Promise]:
    """K-7: members are easier or harder records; what looks like leakage, or hides it, must not decide."""
    policy = resolve("standard")

    def codes(world: _Model) -> list[int]:
        draws = (np.random.default_rng([seed, 9, int(10 * world.leak), r]) for r in range(replicates))
        return [_walk(world, rng, policy, r).exit_code for r, rng in enumerate(draws)]

    easier = codes(_Model(1000, leak=0.0, shift=1.0))
    name = "K-7: members are easier records, nothing leaks"
    yield _rarely("K-7.fail", name, "it fails the standard profile", [c == ExitCode.VIOLATED for c in easier])
    yield _rarely("K-7.pass", name, "it passes the standard profile", [c == ExitCode.PASS for c in easier])
    masked = codes(_Model(1000, leak=1.0, shift=-1.0))
    name = "K-7: members are harder records, which hides the leak"
    yield _rarely("K-7.masked", name, "it passes the standard profile", [c == ExitCode.PASS for c in masked])


# --- all of them ----------------------------------------------------------------------------------------------------

World = Callable[[int, int], Iterator[Promise]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A world and the share of the replicates that its cost allows."""

    run: World
    share: float

    @property
    def summary(self) -> str:
        """First line of the world's docstring."""
        return (self.run.__doc__ or "").strip().splitlines()[0]


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(gaussian_shift, 1.0),
    Scenario(randomised_response, 1.0),
    Scenario(persons, 1.0),
    Scenario(many_attacks, 0.4),
    Scenario(mean_release, 0.5),
    Scenario(memoriser, 0.2),
    Scenario(low_false_positives, 1.0),
    Scenario(whole_street, 0.2),
    Scenario(shifted_members, 0.15),
)
REPLICATES = 150
FEWEST = 10  # below this a rate says nothing


def run(
    replicates: int = REPLICATES, seed: int = 0, begin: Callable[[str], None] = lambda summary: None
) -> Iterator[Promise]:
    """All promises, one after the other; `begin` is told which world comes next. Deterministic for a seed."""
    for scenario in SCENARIOS:
        begin(scenario.summary)
        yield from scenario.run(seed, max(FEWEST, round(scenario.share * replicates)))
