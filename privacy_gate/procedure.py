"""What the training procedure leaks, not this one model: every shadow takes the target's place in turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from privacy_gate import metrics
from privacy_gate.attacks import Attack
from privacy_gate.datamodel import (
    WITHHELD,
    AttackFailed,
    AttackOutcome,
    AttackResult,
    AttackSkipped,
    Audit,
    Bools,
    Floats,
    Ints,
    Measurement,
    Observations,
    Scope,
    Slice,
    SliceAccuracy,
    ThreatModel,
)
from privacy_gate.measure import View, measure

FEWEST_RUNS = 5
_RUN_STREAM = 9  # keeps these draws apart from every other use of the run's seed

SlicesOf = Callable[[Audit, Observations], Sequence[Slice]]
"""(answer key, observations) -> parts of the records; asked anew in each run, whose references are others."""


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """One shadow in the target's place: its answer key, the parts chosen for it, the outcomes of each attack."""

    audit: Audit
    parts: Sequence[Slice]
    outcomes: Sequence[Sequence[AttackOutcome]]


def procedure(
    attacks: Sequence[Attack], view: View, audit: Audit, seed: int, slices: SlicesOf | None = None
) -> list[AttackOutcome]:
    """Each attack on models that this procedure makes: means over runs with t-intervals across the runs.

    In run s shadow s is the target and `view.seen.reference_member[s]` the answer key; the other shadows are its
    references, and their answers on the same records its pool. The audited model takes no part, so a report shows it
    beside these numbers. The runs share their records, and reference attacks also their references: what a record's
    answers have in common does not average out over runs. So the spread over persons of their mean contribution to all
    runs is added to the spread over runs; with t over runs alone LiRA's bounds would miss three times as often as they
    may. Still the bounds speak of models trained on persons such as those of this pool.

    `scores` and `decisions` are the first run's, against the answer key of that run and not `audit.member`. Slices are
    chosen in each run by its own references, and reported when at least five runs have them; their persons are the
    fewest of all runs. An attack with fewer than five runs is skipped with its reason; one that crashes in a run has
    failed.
    """
    usable = _usable(view.seen)
    if len(usable) < FEWEST_RUNS:
        reason = (
            f"{len(usable)} retrained models have members and non-members among the audited records; "
            f"{FEWEST_RUNS} are needed to speak of the training procedure"
        )
        return [AttackSkipped(a.id, a.family, model, reason) for a in attacks for model in _threat_models(a)]
    runs = [_run(attacks, view, audit, seed, s, slices) for s in usable]
    return [outcome for place, attack in enumerate(attacks) for outcome in _over_runs(attack, place, runs)]


def _threat_models(attack: Attack) -> tuple[ThreatModel, ...]:
    return attack.threat_models if attack.thresholded else attack.threat_models[:1]


def _usable(seen: Observations) -> list[int]:
    """Shadows that trained on some of the audited records, not on all."""
    member = seen.reference_member
    return [] if member is None else [s for s, inside in enumerate(member) if inside.any() and not inside.all()]


def _run(attacks: Sequence[Attack], view: View, audit: Audit, seed: int, s: int, slices: SlicesOf | None) -> _Run:
    """The outcomes of each attack with shadow s as the target."""
    assert view.seen.reference_member is not None
    rng = np.random.default_rng([_RUN_STREAM, seed, s])
    key = replace(audit, member=view.seen.reference_member[s].copy())
    own = int(rng.integers(2**32))
    one = in_its_place(view, s, rng)
    parts = slices(key, one.seen) if slices else ()
    return _Run(key, parts, [measure(attack, one, key, own, slices=parts) for attack in attacks])


def in_its_place(view: View, s: int, rng: np.random.Generator) -> View:
    """The view of an attacker on shadow s: it and its membership appear nowhere but as the target.

    A balanced plan has every record in the same number of shadows. Without shadow s a record is then in one reference
    fewer if s trained on it: the references would tell the answer, and records of s would be rarer among the pool's
    members. So each record keeps the same number of references with and without it, drawn by person; a row of the
    result holds answers of several shadows.
    """
    seen = view.seen
    assert seen.reference_member is not None
    others = np.flatnonzero(np.arange(seen.shadows) != s)
    member = seen.reference_member[others]
    chosen = _equally_many(member, seen.persons, rng)
    references = {name: _chosen(answers[others], chosen) for name, answers in seen.references.items()}
    inside = np.take_along_axis(member, chosen, 0)
    target = Observations(
        target={name: answers[s].copy() for name, answers in seen.references.items()},
        labels=seen.labels,
        known=np.full(seen.n, WITHHELD, dtype=np.int8),
        persons=seen.persons,
        classes=seen.classes,
        references=references if len(inside) else {},
        reference_member=inside if len(inside) else None,
    )
    # Rebuilt instead of cut out of `view.pool`: predictions judged alone may bring a pool of other models, and then
    # nothing tells whose answers stand where.
    pool = Observations(
        target={name: answers.reshape(-1, *answers.shape[2:]) for name, answers in references.items()},
        labels=np.tile(seen.labels, len(inside)),
        known=inside.ravel().astype(np.int8),
        # The same in every row: an attack that learns must not be scored on a person whom it knows from another row.
        persons=np.tile(seen.persons, len(inside)),
        classes=seen.classes,
    )
    return View(target, pool if len(inside) else None, view.adaptive)


def _chosen(answers: Floats, rows: Ints) -> Floats:
    """[a + b, R] or [a + b, R, d] out of [S, R] or [S, R, d], each record's own choice of rows."""
    return np.take_along_axis(answers, rows if answers.ndim == 2 else rows[..., None], 0)


def _equally_many(member: Bools, persons: Ints, rng: np.random.Generator) -> Ints:
    """[a + b, R] for each record a references [S, R] with it and b without it, as many as all records have."""
    people = int(persons.max()) + 1
    draws = rng.random((len(member), people))[:, persons]
    sides = [np.where(side, draws, np.inf).argsort(axis=0)[: side.sum(axis=0).min()] for side in (member, ~member)]
    chosen = np.concatenate(sides)
    # Mixed anew for each person: as in the plan, a row is neither all with nor all without.
    return np.take_along_axis(chosen, rng.random((len(chosen), people)).argsort(axis=0)[:, persons], 0)


_Result = tuple[_Run, AttackResult]


def _over_runs(attack: Attack, place: int, runs: Sequence[_Run]) -> Iterator[AttackOutcome]:
    """One outcome per threat model and scope out of those of all runs; `place` of the attack among all."""
    everything = [(run, outcome) for run in runs for outcome in run.outcomes[place]]
    for model in dict.fromkeys(outcome.threat_model for _, outcome in everything):
        here = [(run, outcome) for run, outcome in everything if outcome.threat_model is model]
        failed = next((outcome for _, outcome in here if isinstance(outcome, AttackFailed)), None)
        if failed is not None:
            yield failed
            continue
        by_scope: dict[Scope | None, list[_Result]] = {}
        for run, outcome in here:
            if isinstance(outcome, AttackResult):
                by_scope.setdefault(outcome.threshold, []).append((run, outcome))
        could = min((len(results) for results in by_scope.values()), default=0)
        if could < FEWEST_RUNS:
            reason = next((outcome.reason for _, outcome in here if isinstance(outcome, AttackSkipped)), "")
            why = f"; in the others: {reason}" if reason else ""
            yield AttackSkipped(
                attack.id, attack.family, model, f"could run on {could} of {len(runs)} retrained models{why}"
            )
            continue
        yield from (_mean(results) for results in by_scope.values())


Influence = Callable[[_Run, AttackResult], Floats]
"""[R] what each record adds to the error of a run's number."""


def _interval(
    results: Sequence[_Result],
    value: Callable[[AttackResult], float],
    influence: Influence,
    within: tuple[float, float] = (0.0, 1.0),
) -> Measurement:
    mean = np.mean([influence(run, result) for run, result in results], axis=0)
    persons = results[0][0].audit.persons
    return metrics.t_interval([value(result) for _, result in results], within, metrics.clustered_error(mean, persons))


def _advantage_influence(run: _Run, result: AttackResult) -> Floats:
    of_tpr, of_fpr = metrics.rate_influences(result.decisions, run.audit.member)
    return of_tpr - of_fpr


def _precision_influence(prior: float) -> Influence:
    def influence(run: _Run, result: AttackResult) -> Floats:
        member = run.audit.member
        tpr, fpr = (float(np.mean(result.decisions[side])) for side in (member, ~member))
        of_tpr, of_fpr = metrics.rate_influences(result.decisions, member)
        flagged = prior * tpr + (1 - prior) * fpr
        if flagged == 0:  # then the precision is nan, and so is the mean
            return np.zeros(len(member))
        # The derivatives of prior TPR / (prior TPR + (1 - prior) FPR).
        return prior * (1 - prior) * (fpr * of_tpr - tpr * of_fpr) / flagged**2

    return influence


def _mean(results: Sequence[_Result]) -> AttackResult:
    first = results[0][1]
    auc = None
    if first.auc is not None:
        auc = _interval(
            results,
            lambda result: math.nan if result.auc is None else result.auc.value,
            lambda run, result: metrics.auc_influences(result.scores, run.audit.member),
        )
    return replace(
        first,
        accuracy=_interval(results, lambda r: r.accuracy.value, lambda *r: _advantage_influence(*r) / 2),
        advantage=_interval(results, lambda r: r.advantage.value, _advantage_influence, (-1.0, 1.0)),
        auc=auc,
        tpr_at_fpr={fpr: _tpr(results, fpr) for fpr in first.tpr_at_fpr},
        precision={prior: _precision(results, prior) for prior in first.precision},
        slices=tuple(_slices(results)),
    )


def _tpr(results: Sequence[_Result], fpr: float) -> Measurement:
    return _interval(
        results,
        lambda result: result.tpr_at_fpr[fpr].value,
        lambda run, result: metrics.tpr_influences(result.scores, run.audit.member, fpr),
    )


def _precision(results: Sequence[_Result], prior: float) -> Measurement:
    return _interval(results, lambda result: result.precision[prior].value, _precision_influence(prior))


def _slices(results: Sequence[_Result]) -> Iterator[SliceAccuracy]:
    """Parts that at least five runs have, by name."""
    found: dict[tuple[str, str], list[tuple[SliceAccuracy, Floats]]] = {}
    for run, result in results:
        for part, rows in zip(result.slices, (chosen.rows for chosen in run.parts), strict=True):
            within = np.zeros(len(rows))
            of_tpr, of_fpr = metrics.rate_influences(result.decisions[rows], run.audit.member[rows])
            within[rows] = (of_tpr - of_fpr) / 2
            found.setdefault((part.by, part.value), []).append((part, within))
    persons = results[0][0].audit.persons
    for (by, value), parts in sorted(found.items()):
        if len(parts) >= FEWEST_RUNS:
            mean = np.mean([influences for _, influences in parts], axis=0)
            shared = metrics.clustered_error(mean, persons)
            yield SliceAccuracy(
                by,
                value,
                min(part.members for part, _ in parts),
                min(part.nonmembers for part, _ in parts),
                metrics.t_interval([part.accuracy.value for part, _ in parts], shared=shared),
            )
