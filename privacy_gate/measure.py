"""From an attack's scores to what the policy judges. Written once; every attack goes through here.

No number comes from a threshold fitted on the records it is scored on: thresholds are carried over from shadows,
or fitted on one half of the persons and used on the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from privacy_gate import metrics, thresholds
from privacy_gate.attacks import Attack
from privacy_gate.datamodel import (
    AttackFailed,
    AttackOutcome,
    AttackResult,
    AttackSkipped,
    Audit,
    Bools,
    Floats,
    Measurement,
    Observations,
    Scope,
    Slice,
    SliceAccuracy,
    ThreatModel,
)
from privacy_gate.errors import GateError, NotEvaluable

FPRS = (0.01, 0.001)
PRIORS = (0.5, 0.1, 0.01)
REPEATS = 5
_SHUFFLE_STREAM = 4  # keeps this draw apart from every other use of the run's seed


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What one attacker sees.

    seen      the target on R records, membership withheld
    pool      shadows in the target's place, membership known; None without shadows
    adaptive  shadows answered through the same defence as the target
    absent    signal -> why this candidate does not give it
    failed    those of `absent` that fit the candidate, and broke when it was asked
    unfit     those of `absent` that are for another kind of record or model
    by_lot    False: the pool holds records of one side of the answer key alone
    """

    seen: Observations
    pool: Observations | None
    adaptive: bool = True
    absent: Mapping[str, str] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    unfit: frozenset[str] = frozenset()
    by_lot: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class _Key:
    """The answer key, and how it is asked."""

    audit: Audit
    slices: Sequence[Slice]
    parts: metrics.Parts
    answered: Sequence[Slice]
    answered_parts: metrics.Parts
    census: bool


def measure(
    attack: Attack, view: View, audit: Audit, seed: int, *, slices: Sequence[Slice] = (), census: bool = False
) -> list[AttackOutcome]:
    """One attack under each of its threat models and threshold scopes; what cannot run is skipped with its reason.

    The same decisions are counted once more within each of `slices`. `census`: every record that the target was
    trained on is among the members, so that they are no sample. Raises NotEvaluable for a slice of one kind only.
    """
    answered = _answered(view.seen, audit)
    key = _Key(audit, slices, _parts(slices, audit), answered, _parts(answered, audit), census)
    models = attack.threat_models if attack.thresholded else attack.threat_models[:1]
    if not view.adaptive:
        # The known-subset attacker has no shadows: there is nothing in it that could be non-adaptive.
        # Neither does an attack without a threshold ask any shadow.
        models = tuple(m for m in models if m is not ThreatModel.KNOWN_SUBSET) if attack.thresholded else ()
    outcomes: list[AttackOutcome] = []
    for model in models:
        reason = missing(attack, model, view)
        if reason:
            # A model that breaks when an attack asks it has not shown that the attack does not fit.
            if attack.requires & view.failed - set(view.seen.target):
                outcomes.append(AttackFailed(attack.id, attack.family, model, reason, refused=True))
            else:
                fits = not attack.requires & view.unfit
                outcomes.append(AttackSkipped(attack.id, attack.family, model, reason, applies=fits))
            continue
        try:
            outcomes += _decide(attack, model, view, key, seed)
        except NotEvaluable as error:
            outcomes.append(AttackSkipped(attack.id, attack.family, model, str(error.what)))
        except (GateError, ArithmeticError, ValueError, LookupError, TypeError) as error:
            outcomes.append(AttackFailed(attack.id, attack.family, model, f"{type(error).__name__}: {error}"))
    return outcomes


def _parts(slices: Sequence[Slice], audit: Audit) -> metrics.Parts:
    return metrics.parts([part.rows for part in slices], audit.member, audit.persons)


def _answered(seen: Observations, audit: Audit) -> list[Slice]:
    """The records that the target answered correctly, and the others: what is left beyond the gap between the two.

    Chosen by the target's own answers, so shown and never judged.
    """
    correct = seen.target.get("correctness")
    if correct is None:
        return []
    found = []
    for value, rows in (("correct", correct > 0), ("incorrect", correct <= 0)):
        members, others = (len(np.unique(audit.persons[rows & side])) for side in (audit.member, ~audit.member))
        if members and others:
            found.append(Slice("answer", value, rows, members, others))
    return found


def missing(attack: Attack, model: ThreatModel, view: View) -> str:
    """Why this attack cannot run under this threat model on what the view holds; "" if it can."""
    absent = sorted(attack.requires - set(view.seen.target))
    if absent:
        why = next((f": {view.absent[name]}" for name in absent if name in view.absent), "")
        return f"needs the signal {', '.join(absent)}, which this candidate does not give{why}"
    if model is ThreatModel.SHADOW and attack.thresholded:
        if view.pool is None:
            return "needs shadow models to take its threshold from; there are none"
        if absent := sorted(attack.requires - set(view.pool.target)):
            return f"needs the signal {', '.join(absent)} of the shadow models, which were not asked for it"
        if attack.reads_known and not view.by_lot:
            # It would have learnt the target's members by heart, and none of the others: that alone tells them apart.
            return "learns from the shadows' records, and who trained these shadows was not drawn by lot"
    if attack.min_in or attack.min_out:
        member = view.seen.reference_member
        if member is None:
            return "needs reference models; there are none"
        times_in, times_out = member.sum(axis=0), (~member).sum(axis=0)
        if times_in.min() < attack.min_in or times_out.min() < attack.min_out:
            return (
                f"needs every record in at least {attack.min_in} and out of at least {attack.min_out} "
                f"reference models; some are in {times_in.min()} and out of {times_out.min()}"
            )
    return ""


def _decide(attack: Attack, model: ThreatModel, view: View, key: _Key, seed: int) -> list[AttackOutcome]:
    audit = key.audit
    withheld = view.seen.reveal(audit.member, np.zeros(view.seen.n, dtype=np.bool_))
    if not attack.thresholded:
        scores = _score(attack, withheld, seed)
        return [_result(attack, model, None, view.adaptive, [scores > 0], scores, key, {}, None)]
    if model is ThreatModel.SHADOW and view.pool is not None:
        pooled, scores = _with_pool(attack, view.pool, withheld, seed)
        decide = _carried_over(view.pool, pooled, scores, audit)
    else:
        halves = thresholds.person_folds(audit.member, audit.persons, seed, repeats=min(attack.repeats, REPEATS))
        once = None if attack.reads_known else _score(attack, withheld, seed)
        rounds = [[_fold(attack, view.seen, audit, fold, once, seed) for fold in folds] for folds in halves]
        scores = _joined(rounds[0])
        decide = _cross_fitted(rounds, audit)
    sides = (audit.member, audit.persons)
    tprs = {fpr: metrics.tpr_at_fpr(scores, *sides, fpr, seed, census=key.census) for fpr in FPRS}
    auc = metrics.auc(scores, *sides, census=key.census)
    if attack.reads_known and model is ThreatModel.KNOWN_SUBSET and auc.method == "delong":
        # Either half was scored by what the other one taught: their errors go together, at worst entirely.
        auc = replace(auc, error=auc.error * math.sqrt(2))
    return [_result(attack, model, scope, view.adaptive, decide(scope), scores, key, tprs, auc) for scope in Scope]


def _score(attack: Attack, observations: Observations, seed: int) -> Floats:
    """[R] scores. The attack sees records and persons shuffled: their order would tell who was a member."""
    rng = np.random.default_rng([_SHUFFLE_STREAM, seed])
    order = rng.permutation(observations.n)
    names = rng.permutation(int(observations.persons.max()) + 1)
    shuffled = observations.take(order, names[observations.persons[order]])
    given = np.asarray(attack.score(shuffled), dtype=np.float64)
    if given.shape != (observations.n,):
        raise ValueError(f"attack {attack.id} gave scores of shape {given.shape} for {observations.n} records")
    scores = np.empty_like(given)
    scores[order] = given
    if np.isnan(scores).any():
        raise ValueError(f"attack {attack.id} gave {int(np.isnan(scores).sum())} scores that are not numbers")
    return scores


Decide = Callable[[Scope], Sequence[Bools]]


def _with_pool(attack: Attack, pool: Observations, withheld: Observations, seed: int) -> tuple[Floats, Floats]:
    """Scores of the pool's records and of the target's. An attack that learns, learns from the pool."""
    if not attack.reads_known:
        return _score(attack, pool, seed), _score(attack, withheld, seed)
    together = _score(attack, withheld.behind(pool, attack.requires), seed)
    return together[: pool.n], together[pool.n :]


def _carried_over(pool: Observations, pooled: Floats, scores: Floats, audit: Audit) -> Decide:
    member = pool.known == 1

    def decide(scope: Scope) -> Sequence[Bools]:
        fitted = thresholds.fit(pooled, member, pool.labels, pool.classes, scope)
        return [fitted.decide(scores, audit.labels)]

    return decide


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    """Scores with one half revealed: thresholds are fitted on it and applied to the other."""

    apply: Bools  # [R] the half that is decided
    scores: Floats  # [R]


def _fold(attack: Attack, seen: Observations, audit: Audit, apply: Bools, once: Floats | None, seed: int) -> _Fold:
    return _Fold(apply, _score(attack, seen.reveal(audit.member, ~apply), seed) if once is None else once)


def _joined(folds: Sequence[_Fold]) -> Floats:
    """[R] each record's score from the fold in which it was withheld."""
    scores = np.zeros_like(folds[0].scores)
    for fold in folds:
        scores[fold.apply] = fold.scores[fold.apply]
    return scores


def _cross_fitted(rounds: Sequence[Sequence[_Fold]], audit: Audit) -> Decide:
    def decide(scope: Scope) -> Sequence[Bools]:
        decisions = []
        for folds in rounds:
            decided = np.zeros(len(audit.member), dtype=np.bool_)
            for fold in folds:
                known, hidden = ~fold.apply, fold.apply
                fitted = thresholds.fit(
                    fold.scores[known], audit.member[known], audit.labels[known], len(audit.classes), scope
                )
                decided[hidden] = fitted.decide(fold.scores[hidden], audit.labels[hidden])
            decisions.append(decided)
        return decisions

    return decide


def _result(
    attack: Attack,
    model: ThreatModel,
    scope: Scope | None,
    adaptive: bool,
    decisions: Sequence[Bools],
    scores: Floats,
    key: _Key,
    tprs: Mapping[float, Measurement],
    auc: Measurement | None,
) -> AttackResult:
    sides = (key.audit.member, key.audit.persons)
    rates = [metrics.advantage(d, *sides, census=key.census) for d in decisions]
    return AttackResult(
        id=attack.id,
        family=attack.family,
        threat_model=model,
        threshold=scope,
        adaptive=adaptive,
        accuracy=metrics.averaged([metrics.BalancedAccuracy(rate) for rate in rates]),
        advantage=metrics.averaged(rates),
        auc=auc,
        tpr_at_fpr=tprs,
        scores=scores,
        decisions=decisions[0],
        slices=_within(key.slices, key.parts, decisions, key.census),
        answered=_within(key.answered, key.answered_parts, decisions, key.census),
        precision={prior: metrics.averaged([metrics.precision_of(rate, prior) for rate in rates]) for prior in PRIORS},
    )


def _within(
    slices: Sequence[Slice], parts: metrics.Parts, decisions: Sequence[Bools], census: bool
) -> tuple[SliceAccuracy, ...]:
    """Balanced accuracy of the same decisions within each slice, averaged over the repeats as the whole is."""
    repeats = [parts.advantages(d, census=census) for d in decisions]
    return tuple(
        SliceAccuracy(
            part.by,
            part.value,
            part.members,
            part.nonmembers,
            metrics.averaged([metrics.BalancedAccuracy(rate) for rate in rates]),
        )
        for part, *rates in zip(slices, *repeats, strict=True)
    )
