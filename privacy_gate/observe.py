"""From what models answered to what attackers see: defences, signals, reference models, the pooled shadow records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import WITHHELD, Audit, Bools, Floats, Ints, Observations, Outputs, ShadowPlan
from privacy_gate.defences import NOTHING, Defences
from privacy_gate.errors import DataError, ModelOutputUnusable, NotEvaluable
from privacy_gate.features import read_npz
from privacy_gate.manifest import SHARED_PERSONS, require_evaluable
from privacy_gate.measure import View
from privacy_gate.signals import CATALOG as SIGNALS
from privacy_gate.signals import PROBES, collect
from privacy_gate.signals.logit_space import resolution_of

SHOWN_SIGNALS = frozenset({"modified_entropy", "modified_entropy_1e30", "logit_confidence", "correctness"})
"""Read by the risk estimators and by the report, whatever attacks run."""

_NOISE_STREAM = 51  # keeps the defences' noise apart from every other use of the run's seed

GIVEN = frozenset({"coordinates"})
"""Signals of the records themselves, which no model is asked for: see `inputs.coordinates`."""

LABELS_ALONE = "the candidate answers with labels alone"


def of_labels(name: str) -> bool:
    """Whether a signal can be had of a model that tells its decision and nothing else."""
    return name in GIVEN or name == "correctness" or (name in PROBES.names() and PROBES[name].needs == "labels")


@dataclass(frozen=True, slots=True, eq=False)
class PoolPart:
    """One shadow's answers on the records whose membership in it is known."""

    outputs: Outputs  # [n, K]
    labels: Ints  # [n]
    member: Bools  # [n]
    persons: Ints | None = None  # [n]; None: every record a person of its own, in this part alone
    rows: Ints | None = None  # [n] of the U records; None where there are no others


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What all models said, before any output defence.

    target             [R, K]
    shadows            per shadow [U, K]; empty without shadows
    pool               the parts whose in/out answers set shadow thresholds; with shadows, one part per shadow
    reference_member   [S, R]; None where no reference model saw the audited records
    reference_signals  [S, R] logit confidences given instead of outputs (predictions judged alone)
    beside, beside_shadows  answers on the defence's own reference records [D, K]: the target's, and per shadow
    probes             probe -> [R] or [R, d] of the target
    shadow_probes      per shadow: probe -> [U] or [U, d]; None where the shadows were not probed
    given              signals of the records themselves, -> [R] or [R, d]
    absent             signal -> why this candidate does not give it
    failed             those of `absent` whose probe broke on the candidate or on a shadow
    unfit              those of `absent` that are for another kind of record or model
    undefended         the same with shadows that were trained without the defence; None where that is no other thing
    by_lot             whether it is by lot who trained the shadows; if not, the pool is of the target's one side alone
    """

    target: Outputs
    shadows: tuple[Outputs, ...] = ()
    pool: tuple[PoolPart, ...] = ()
    reference_member: Bools | None = None
    reference_signals: Floats | None = None
    beside: Outputs | None = None
    beside_shadows: tuple[Outputs, ...] = ()
    probes: Mapping[str, Floats] = field(default_factory=dict)
    shadow_probes: tuple[Mapping[str, Floats], ...] | None = None
    given: Mapping[str, Floats] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    unfit: frozenset[str] = frozenset()
    undefended: Answers | None = None
    by_lot: bool = True


def from_shadows(
    target: Outputs,
    shadows: Sequence[Outputs],
    plan: ShadowPlan,
    labels: Ints,
    persons: Ints | None = None,
    *,
    probes: Sequence[Mapping[str, Floats]] | None = None,
) -> Answers:
    """Answers of trained or loaded shadows: every shadow is a reference model and a part of the pool.

    labels [U], persons [U]; by default every record is a person of its own, the same one in all shadows.
    probes  per shadow: name -> [U] or [U, d]
    """
    rows = np.flatnonzero(plan.pool)
    people = rows if persons is None else persons[rows]
    parts = tuple(
        PoolPart(_part(o, rows), labels[rows], plan.member[s, rows], people, rows) for s, o in enumerate(shadows)
    )
    member = plan.member[:, : len(target.values)] if len(shadows) and plan.by_lot else None
    given = tuple(probes) if probes and shadows else None
    return Answers(target, tuple(shadows), parts, member, shadow_probes=given, by_lot=plan.by_lot)


def _part(outputs: Outputs, rows: Ints | slice) -> Outputs:
    return replace(outputs, values=outputs.values[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """The attackers' views and what the validity checks want to know about the answers.

    views           the adaptive attacker's; with a defence also the non-adaptive one's
    saturated       share of target answers whose true-class probability is exactly 0 or 1
    embedding       [R, K] logits or log probabilities of the target, as released
    target_correct  [R]
    shadow_correct  [S, R]; None without shadows
    """

    views: tuple[View, ...]
    saturated: float
    resolution: float
    embedding: Floats
    target_correct: Bools
    shadow_correct: Bools | None


def observe(
    answers: Answers, audit: Audit, attacks: Iterable[str], defences: Defences = NOTHING, seed: int = 0
) -> Observed:
    """All views of one target. A defence stands before the target always, before the shadows in the adaptive view.

    Raises NotEvaluable for a constant answer, and where a fitted defence has no reference records.
    """
    names = frozenset(SHOWN_SIGNALS.union(*(ATTACKS[name].requires for name in attacks)))
    if answers.target.labels_only:
        hidden = frozenset(name for name in names if not of_labels(name))
        answers, names = _without(answers, hidden), names - hidden
    path = defences.around(lambda: _known_of_target(answers, audit), _noise_of(seed, 0), released=True)
    target = path(answers.target)
    if np.ptp(target.values, axis=0).max() == 0:
        raise NotEvaluable(
            "the model gives the same answer for every record",
            "a constant output carries no evidence; check the model and the output defence",
        )
    crowd = _through(answers, defences, seed)
    views = [_view(crowd, target, audit, names, adaptive=True)]
    if defences.output or answers.undefended is not None:
        views.append(_view(answers.undefended or answers, target, audit, names, adaptive=False))
    shadow_correct = None
    if answers.shadows:
        # Through the same defence as the target: one that changes the top class changes it for both.
        shadow_correct = np.stack([o.values[: len(audit.labels)].argmax(1) == audit.labels for o in crowd.shadows])
    step = _resolution(crowd, target)
    return Observed(
        views=tuple(views),
        saturated=_saturated(target, audit.labels),
        resolution=step,
        embedding=_embedding(target, step),
        target_correct=np.asarray(target.values.argmax(1) == audit.labels),
        shadow_correct=shadow_correct,
    )


def _without(answers: Answers, hidden: frozenset[str]) -> Answers:
    """The answers of a candidate that tells labels alone: what takes scores is not to be had, and nobody is to blame.

    It fits all the same: there are scores behind the labels, and whoever holds the model's file may find them. A policy
    that is content with labels says so, by naming the attacks that it requires.
    """
    return replace(
        answers,
        absent={**answers.absent, **dict.fromkeys(sorted(hidden - answers.unfit), LABELS_ALONE)},
        failed=answers.failed - hidden,
        probes={name: values for name, values in answers.probes.items() if name not in hidden},
        undefended=None if answers.undefended is None else _without(answers.undefended, hidden),
    )


def _noise_of(seed: int, model: int) -> int:
    """The seed of one model's noise. Answers of few values would otherwise get the same noise from all models, which
    is none: the attacker's shadows would show what it does to each value.
    """
    return int(np.random.SeedSequence([_NOISE_STREAM, seed, model]).generate_state(1)[0])


def _known_of_target(answers: Answers, audit: Audit) -> tuple[Outputs, Bools]:
    """What the defence of the released model was fitted to: its members, and the defence's own records."""
    return _beside(_part(answers.target, np.flatnonzero(audit.member)), answers.beside)


def _beside(members: Outputs, others: Outputs | None) -> tuple[Outputs, Bools]:
    if others is None or not len(others.values):
        raise NotEvaluable(
            "the defence is fitted to records that are neither members nor non-members; there are none",
            "name the defence's own records under data.seen",
        )
    known = replace(members, values=np.concatenate([members.values, others.values]))
    return known, np.arange(len(known.values)) < len(members.values)


def _through(answers: Answers, defences: Defences, seed: int) -> Answers:
    """The shadows' answers behind the same defence as the target's, fitted to each of them."""
    if not defences.output:
        return answers
    shadows, pool = [], []
    for s, part in enumerate(answers.pool):
        beside = answers.beside_shadows[s] if answers.beside_shadows else None
        known = _part(part.outputs, np.flatnonzero(part.member))
        fitted_to = partial(_beside, known, beside)
        path = defences.around(fitted_to, _noise_of(seed, 1 + s))
        if answers.shadows and part.rows is not None:
            everything = path(answers.shadows[s])
            shadows.append(everything)
            pool.append(replace(part, outputs=_part(everything, part.rows)))
        else:
            pool.append(replace(part, outputs=path(part.outputs)))
    return replace(answers, shadows=tuple(shadows), pool=tuple(pool))


def _resolution(answers: Answers, target: Outputs) -> float:
    """Smallest probability step of the output path, seen on the shadows; on the target where there are none."""
    shadows = [part.outputs for part in answers.pool] or [target]
    steps = [o.resolution or resolution_of(o.values) for o in shadows if o.kind == "probabilities"]
    return min(steps, default=0.0)


def _view(answers: Answers, target: Outputs, audit: Audit, names: frozenset[str], *, adaptive: bool) -> View:
    """What the attacker sees who asks the target and these shadows."""
    step = _resolution(answers, target)
    count = len(audit.labels)
    asked = sorted(names & set(SIGNALS.names()))
    probed = sorted(names & set(PROBES.names()) & set(answers.probes))
    of_shadows = [n for n in probed if n in answers.shadow_probes[0]] if answers.shadow_probes else []

    def signals(outputs: Outputs, labels: Ints) -> dict[str, Floats]:
        fine = replace(outputs, resolution=step) if outputs.kind == "probabilities" else outputs
        return collect(fine, labels, asked)

    def probes(shadow: int, rows: Ints | slice) -> dict[str, Floats]:
        return {n: answers.shadow_probes[shadow][n][rows] for n in of_shadows} if answers.shadow_probes else {}

    pool = None
    if answers.pool:
        parts = [
            signals(part.outputs, part.labels) | (probes(s, part.rows) if part.rows is not None else {})
            for s, part in enumerate(answers.pool)
        ]
        pool = Observations(
            target={name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
            labels=np.concatenate([part.labels for part in answers.pool]),
            known=np.concatenate([part.member for part in answers.pool]).astype(np.int8),
            persons=_pooled_persons(answers.pool),
            classes=len(audit.classes),
            answered_by=np.repeat(np.arange(len(answers.pool)), [len(part.labels) for part in answers.pool]),
        )
    references: dict[str, Floats] = {}
    if answers.reference_signals is not None:
        references = {"logit_confidence": answers.reference_signals}
    elif answers.reference_member is not None:
        each = [
            signals(_part(o, slice(count)), audit.labels) | probes(s, slice(count))
            for s, o in enumerate(answers.shadows)
        ]
        references = {name: np.stack([one[name] for one in each]) for name in each[0]}
    seen = Observations(
        target=signals(target, audit.labels)
        | {name: answers.probes[name] for name in probed}
        | {name: answers.given[name] for name in sorted(names & set(answers.given))},
        labels=audit.labels,
        known=np.full(count, WITHHELD, dtype=np.int8),
        persons=audit.persons,
        classes=len(audit.classes),
        references=references,
        reference_member=answers.reference_member if references else None,
    )
    return View(seen, pool, adaptive, answers.absent, answers.failed, answers.unfit, answers.by_lot)


def _pooled_persons(parts: Sequence[PoolPart]) -> Ints:
    """[n] dense persons over all parts: one person is the same in all of them, where persons are known."""
    if any(part.persons is None for part in parts):
        return np.arange(sum(len(part.labels) for part in parts), dtype=np.int64)
    found = np.concatenate([part.persons for part in parts if part.persons is not None])
    return np.asarray(np.unique(found, return_inverse=True)[1], dtype=np.int64)


def _embedding(outputs: Outputs, step: float) -> Floats:
    """Where a record lies in the space of the model's last layer, as far as its answers show it."""
    values = outputs.values.astype(np.float64)
    return values if outputs.kind == "logits" else np.log(np.maximum(values, max(step / 2, 1e-30)))


def _saturated(outputs: Outputs, labels: Ints) -> float:
    if outputs.kind == "logits":
        return 0.0
    chosen = outputs.values[np.arange(len(labels)), labels]
    return float(((chosen <= 0) | (chosen >= 1)).mean())


# --- predictions judged alone ---------------------------------------------------------------------------------------


def from_file(path: Path) -> tuple[Answers, Audit, dict[str, int]]:
    """Read predictions: `target_{member,nonmember}_{probs|logits}`, `_labels`, optional shadow and reference arrays.

    Returns the answers, the answer key, and why -> records left out.
    Errors: DataError (exit 2) for missing or misshapen arrays and labels; ModelOutputUnusable (exit 3) for
    predictions that are none; NotEvaluable (exit 4) for empty sides, missing classes, too few records.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", "--observations takes an .npz of predictions")
    arrays = read_npz(path)
    target = _predictions(arrays, "target", path)
    rows, removed = _without_shared_persons(target)
    audit = Audit(
        member=target.member[rows],
        labels=target.labels[rows],
        persons=np.unique(target.persons[rows], return_inverse=True)[1].astype(np.int64),
        classes=tuple(str(k) for k in range(target.outputs.values.shape[1])),
        groups={},
        has_persons=target.has_persons,
    )
    require_evaluable(audit)
    pool: tuple[PoolPart, ...] = ()
    if any(name.startswith("shadow_") for name in arrays):
        shadow = _predictions(arrays, "shadow", path)
        if shadow.outputs.values.shape[1] != len(audit.classes):
            raise DataError(
                f"{path}: shadow has {shadow.outputs.values.shape[1]} classes, target {len(audit.classes)}",
                "shadow and target answer with the same columns",
            )
        pool = (PoolPart(shadow.outputs, shadow.labels, shadow.member),)
    member, signals = _references(arrays, len(target.labels), path)
    return (
        Answers(
            replace(target.outputs, values=target.outputs.values[rows]),
            (),
            pool,
            None if member is None else member[:, rows],
            None if signals is None else signals[:, rows],
            absent=dict.fromkeys([*GIVEN, *PROBES.names()], "predictions alone hold neither records nor a model"),
            unfit=frozenset([*GIVEN, *PROBES.names()]),
        ),
        audit,
        removed,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Predictions:
    outputs: Outputs
    labels: Ints
    member: Bools
    persons: NDArray[Any]
    has_persons: bool


def _predictions(arrays: dict[str, NDArray[Any]], who: str, path: Path) -> _Predictions:
    logits = f"{who}_member_logits" in arrays
    suffix = "logits" if logits else "probs"
    needed = [f"{who}_{side}_{what}" for side in ("member", "nonmember") for what in (suffix, "labels")]
    for name in needed:
        if name not in arrays:
            raise DataError(f"{path}: no array {name}", f"expected {', '.join(needed)}")
    sizes, columns = [], {}
    for side in ("member", "nonmember"):
        name = f"{who}_{side}_{suffix}"
        values, labels = arrays[name], arrays[f"{who}_{side}_labels"]
        if values.ndim != 2 or labels.shape != (len(values),):
            raise DataError(
                f"{path}: {name} has shape {values.shape}, labels {labels.shape}", "they must be [n, K] and [n]"
            )
        if values.dtype.kind not in "fiu":
            raise DataError(f"{path}: {name} is of type {values.dtype}", "store numbers")
        if not len(values):
            raise NotEvaluable(f"{path}: {who} has no {side} records", "both sides are needed")
        if not np.issubdtype(labels.dtype, np.integer):
            raise DataError(f"{path}: {who}_{side}_labels are {labels.dtype}", "labels are class indices 0..K-1")
        sizes.append(len(labels))
        columns[name] = values.shape[1]
    if len(set(columns.values())) > 1:
        found = " and ".join(f"{name} {count}" for name, count in columns.items())
        raise DataError(f"{path}: the sides differ in their columns: {found}", "one column per class on either side")

    def both(what: str) -> NDArray[Any]:
        return np.concatenate([arrays[f"{who}_{side}_{what}"] for side in ("member", "nonmember")])

    values, labels = both(suffix), both("labels").astype(np.int64)
    persons = np.arange(len(labels))
    named = [f"{who}_{side}_persons" for side in ("member", "nonmember")]
    has_persons = any(name in arrays for name in named)
    if has_persons:
        for name, size in zip(named, sizes, strict=True):
            if name not in arrays or arrays[name].shape != (size,):
                found = f"has shape {arrays[name].shape}" if name in arrays else "is missing"
                raise DataError(f"{path}: {name} {found}", f"persons are given for both sides; expected [{size}]")
        persons = both("persons")
    _check(values, labels, logits, f"{path}: {who}")
    return _Predictions(
        Outputs(values, "logits" if logits else "probabilities"),
        labels,
        np.arange(len(labels)) < sizes[0],
        persons,
        has_persons,
    )


def _without_shared_persons(target: _Predictions) -> tuple[Bools, dict[str, int]]:
    shared = ~target.member & np.isin(target.persons, target.persons[target.member])
    return ~shared, {SHARED_PERSONS: int(shared.sum())} if shared.any() else {}


def _references(arrays: dict[str, NDArray[Any]], records: int, path: Path) -> tuple[Bools | None, Floats | None]:
    signals, member = arrays.get("reference_signals"), arrays.get("reference_member")
    if signals is None and member is None:
        return None, None
    if signals is None or member is None:
        raise DataError(f"{path}: reference_signals and reference_member go together", "store both, or neither")
    if signals.shape != member.shape or signals.ndim != 2 or signals.shape[1] != records:
        raise DataError(
            f"{path}: reference arrays must both be [S, {records}], got {signals.shape} and {member.shape}",
            "one column per target record, members first",
        )
    if signals.dtype.kind not in "fiu":
        raise DataError(f"{path}: reference_signals are of type {signals.dtype}", "store logit confidences")
    if member.dtype != np.bool_ and not (member.dtype.kind in "iu" and np.isin(member, (0, 1)).all()):
        raise DataError(
            f"{path}: reference_member is of type {member.dtype}", "store True where the model trained on the record"
        )
    if not np.isfinite(signals).all():
        raise ModelOutputUnusable(
            f"{path}: reference_signals are not finite", "bound the probabilities away from 0 and 1 before the logit"
        )
    return member.astype(np.bool_), signals.astype(np.float64)


def _check(values: NDArray[Any], labels: Ints, logits: bool, where: str) -> None:
    if values.shape[1] < 2:
        raise DataError(f"{where} has {values.shape[1]} column", "a classifier has at least two")
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise ModelOutputUnusable(
            f"{where} has {int(bad.sum())} rows that are not finite", "remove the cause, not the rows"
        )
    if labels.min() < 0 or labels.max() >= values.shape[1]:
        raise DataError(f"{where} has labels out of range 0..{values.shape[1] - 1}", "labels are class indices")
    if not logits and ((values < 0).any() or np.abs(values.sum(axis=1) - 1).max() > 1e-3):
        raise ModelOutputUnusable(f"{where} has rows that are not distributions", "give *_logits if these are logits")
