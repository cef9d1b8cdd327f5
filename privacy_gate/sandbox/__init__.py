"""Scoring models that nobody trusts: each in a process of its own, which returns arrays and nothing else.

The child has a clean environment, no terminal, a session of its own and a time limit. It is not yet a jail: it may
read what its user may read and open connections. What it answers is checked here as if an attacker had written it.

What a model says when it fails may quote records: errors name the kind and the place of a failure, and the model's own
words go to a private log. A log of a failure is kept in `logs`, if a folder for it is given.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privacy_gate.datamodel import Candidate, Description, Floats, Ints, Outputs
from privacy_gate.errors import ModelOutputUnusable, NotEvaluable, StorageFailed, UnsupportedModel, WorkerDied
from privacy_gate.features import AnyFeatures, batch_rows
from privacy_gate.sandbox import outputs as raw
from privacy_gate.sandbox.jobs import Job, array, dotted, job_in, keep_log, open_file, run
from privacy_gate.sandbox.outputs import AUTO, BATCH, QUERIES, SAME, Form, Kind, checked
from privacy_gate.sandbox.runtime import HERE, Runtime
from privacy_gate.sandbox.stages import steps
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.signals import PROBES

__all__ = ["BATCH", "QUERIES", "SAME", "Probed", "Scored", "Staged", "describe", "examine", "probe", "score", "staged"]

MOST_NAME = 1000  # characters of a class's name
MOST_ROUNDS = 1 << 24  # that a boosted model may claim to have


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What the candidate answered.

    outputs         [n, K]; the mean over all answers (`outputs.averaged`) where the model throws dice
    deterministic   whether the first batch, asked twice, was answered the same (within 1e-6)
    max_difference  largest difference between the two answers
    log             private file with what the model printed
    queries         how often each record was asked for `outputs`: 1, or 16 of a model that throws dice
    changed         share of records whose top class differs between two answers: of the first batch where
                    `deterministic`, else of all records
    """

    outputs: Outputs
    deterministic: bool
    max_difference: float
    log: Path
    queries: int = 1
    changed: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Probed:
    """What probes found.

    values  probe -> [n] or [n, d], finite
    absent  probe -> why there is nothing
    failed  probe -> class of the error that it raised; these are in `absent`, too
    log     private file with what the model printed and why probes failed; None where nothing was asked
    """

    values: Mapping[str, Floats]
    absent: Mapping[str, str]
    failed: Mapping[str, str]
    log: Path | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """What a boosted model answers on its way.

    total    rounds that it has
    steps    after how many of them it was asked: increasing, the last is `total`
    outputs  [n, K] after each of these
    """

    total: int
    steps: tuple[int, ...]
    outputs: tuple[Outputs, ...]


def describe(
    candidate: Candidate,
    workdir: Path,
    *,
    timeout: float = 600.0,
    logs: Path | None = None,
    runtime: Runtime = HERE,
) -> Description:
    """Load the candidate in a process of its own and ask what it is; refuses regressors."""
    with job_in(workdir, logs) as job:
        return _described(candidate, run(candidate, None, job, {}, timeout, runtime), job)


def score(
    candidate: Candidate,
    features: AnyFeatures,
    workdir: Path,
    *,
    form: Form = AUTO,
    timeout: float = 600.0,
    logs: Path | None = None,
    runtime: Runtime = HERE,
) -> Scored:
    """Score `features` in a process of its own; `examine` without the description."""
    return examine(candidate, features, workdir, form=form, timeout=timeout, logs=logs, runtime=runtime)[1]


def examine(
    candidate: Candidate,
    features: AnyFeatures,
    workdir: Path,
    *,
    form: Form = AUTO,
    timeout: float = 600.0,
    logs: Path | None = None,
    runtime: Runtime = HERE,
) -> tuple[Description, Scored]:
    """Describe and score the candidate in one process.

    The first batch is asked again. Where the answers differ, every record is asked 16 times and the answers are
    averaged, since an attacker can do that, too: one answer would hide the signal behind the model's dice.

    workdir  holds training records while the child runs, and its log
    logs     where the log goes if this fails; without it, it stays in `workdir`
    Raises UnsupportedModel (a regressor), DataError (wrong columns), ModelOutputUnusable (not a prediction),
    NotEvaluable (the same answer to everything), WorkerDied (no answer, or none in `timeout` seconds).
    """
    with job_in(workdir, logs) as job:
        meta = run(candidate, features, job, {"form": form.as_json()}, timeout, runtime)
        description = _described(candidate, meta, job)
        asked: Kind = "logits" if meta.get("kind") == "logits" else "probabilities"
        return description, _scored(job, asked, len(features), batch_rows(features, BATCH), description)


def _scored(job: Job, kind: Kind, rows: int, batch: int, description: Description) -> Scored:
    """The child's answers, as many as their differences call for: its word is not taken for that.

    rows, batch  how many records were asked about, and how many of the first ones again
    """
    first = checked(array(job.out / "outputs.npy", job), kind, rows)
    again = checked(array(job.out / "outputs_again.npy", job), kind, min(batch, rows))
    _evaluable(first, description)

    def once_more() -> Outputs:
        return checked(array(job.out / "outputs_once_more.npy", job), kind, min(batch, rows))

    difference = raw.wobble(first, again, once_more)
    if difference <= SAME:
        return Scored(first, True, difference, job.log, 1, raw.changed(first, again))

    def answers() -> Iterator[Outputs]:
        yield first
        for i in range(1, QUERIES):
            yield checked(array(job.out / f"outputs_{i}.npy", job), kind, rows)

    mean = raw.averaged(answers())
    second = checked(array(job.out / "outputs_1.npy", job), kind, rows)
    return Scored(mean, False, difference, job.log, QUERIES, raw.changed(first, second))


def probe(
    candidate: Candidate,
    features: AnyFeatures,
    labels: Ints,
    names: Iterable[str],
    workdir: Path,
    *,
    form: Form = AUTO,
    protect: Mapping[str, Mapping[str, Any]],
    classes: int,
    seed: int,
    timeout: float = 600.0,
    logs: Path | None = None,
    runtime: Runtime = HERE,
) -> Probed:
    """Run the named probes on the candidate, in one process of its own.

    features  [n] records, in an order that tells nothing of who is a member
    labels    [n] class index, in the order of the candidate's columns
    protect   settings of the defences; those that answer row by row stand between the model and `Access.answers`
    classes   K
    seed      of every probe; what a model draws from global generators comes from it, too
    timeout   seconds for all of them together
    Raises WorkerDied, which names the probe, and what `examine` raises; a probe that fails is no error but absent.
    """
    wanted = sorted(set(names))
    for name in wanted:
        PROBES[name]  # refuses an unknown one before anything is started
    if not wanted:
        return Probed({}, {}, {})
    with job_in(workdir, logs) as job:
        order = {
            "form": form.as_json(),
            "probes": wanted,
            "labels": _hand_over(labels, job.folder / "labels.npy"),
            "protect": {name: dict(settings) for name, settings in protect.items()},
            "classes": classes,
            "seed": seed,
        }
        try:
            meta = run(candidate, features, job, order, timeout, runtime)
        except WorkerDied as error:
            raise WorkerDied(f"{error.what}, at {_doing(job, wanted)}", error.hint) from error
        _described(candidate, meta, job)
        found = _probed(meta.get("probes"), wanted, len(features), job)
        log = keep_log(job.log, logs) if found.failed and logs is not None else job.log
        return Probed(found.values, found.absent, found.failed, log)


def staged(
    candidate: Candidate,
    features: AnyFeatures,
    workdir: Path,
    *,
    form: Form = AUTO,
    classes: int,
    timeout: float = 600.0,
    logs: Path | None = None,
    runtime: Runtime = HERE,
) -> Staged:
    """Ask a boosted candidate, in a process of its own, what it answered after a part of its rounds.

    features  [n] records, in an order that tells nothing of who is a member
    form      of its answers, as `examine` found it; columns in the model's own order
    classes   K
    Raises NotEvaluable (it has no rounds), ModelOutputUnusable (a stage is no prediction), and what `examine` raises.
    """
    with job_in(workdir, logs) as job:
        meta = run(candidate, features, job, {"form": form.as_json(), "stages": True}, timeout, runtime)
        _described(candidate, meta, job)
        return _staged(meta.get("rounds"), form.kind, len(features), classes, job)


def _staged(told: Any, kind: Kind, rows: int, classes: int, job: Job) -> Staged:
    """The stages that the child left, checked."""
    if not isinstance(told, int) or isinstance(told, bool) or not 1 <= told <= MOST_ROUNDS:
        raise ModelOutputUnusable("the model's process left no readable answer", job.hint)
    asked, found = tuple(steps(told)), []
    for i, step in enumerate(asked):
        try:
            outputs = checked(array(job.out / f"stage_{i}.npy", job), kind, rows)
        except ModelOutputUnusable as error:
            raise ModelOutputUnusable(f"after {step} of {told} rounds: {error.what}", error.hint) from error
        if outputs.values.shape[1] != classes:
            raise ModelOutputUnusable(
                f"after {step} of {told} rounds: {outputs.values.shape[1]} columns, expected {classes}", job.hint
            )
        found.append(outputs)
    return Staged(told, asked, tuple(found))


def _hand_over(labels: Ints, path: Path) -> str:
    try:
        np.save(path, np.asarray(labels, dtype=np.int64), allow_pickle=False)
    except OSError as error:
        raise StorageFailed(f"{path.parent}: {error.strerror or error}", "free some space") from error
    return str(path.absolute())


def _doing(job: Job, names: list[str]) -> str:
    """The probe that the child began last, by its number: its own words are not read."""
    with contextlib.suppress(OSError, ValueError), open_file(job.out / "doing") as stream:
        return f"the probe {names[int(stream.read(4)) % len(names)]}"
    return "the loading of the model"


def _probed(told: Any, names: list[str], rows: int, job: Job) -> Probed:
    """What the child says that it found, checked."""
    if not isinstance(told, list) or len(told) != len(names) or not all(isinstance(one, dict) for one in told):
        raise ModelOutputUnusable("the model's process left no readable answer", job.hint)
    values, absent, failed = {}, {}, {}
    for i, (name, one) in enumerate(zip(names, told, strict=True)):
        if "failed" in one:
            failed[name] = dotted(one["failed"]) or "an error"
            where = dotted(one.get("where"))
            absent[name] = f"the probe failed: {failed[name]}{f' in {where}' if where else ''}"
        elif "absent" in one:
            absent[name] = clean(one["absent"], 500)
        else:
            try:
                values[name] = raw.probed(array(job.out / f"probe_{i}.npy", job), rows, PROBES[name].vector)
            except ModelOutputUnusable as error:
                raise ModelOutputUnusable(f"{name}: {error.what}", job.hint) from error
    return Probed(values, absent, failed)


# --- what the child says --------------------------------------------------------------------------------------------


def _described(candidate: Candidate, meta: Mapping[str, Any], job: Job) -> Description:
    told = meta.get("description")
    if not isinstance(told, dict) or told.get("kind") not in ("classifier", "regressor", "module", "unknown"):
        raise ModelOutputUnusable("the model's process left no readable description", job.hint)
    if told["kind"] == "regressor":
        raise UnsupportedModel(
            f"{clean(meta.get('type', 'the model'), 100)} is a regressor",
            "the gate audits classifiers with at least two classes",
        )
    classes, recipe, versions = told.get("classes"), told.get("recipe"), told.get("versions")
    return Description(
        flavor=candidate.flavor,
        kind=told["kind"],
        classes=_class_values(classes, job) if isinstance(classes, list) else None,
        recipe=_cleaned(recipe) if isinstance(recipe, dict) else None,
        versions=_cleaned(versions) if isinstance(versions, dict) else {},
    )


def _class_values(told: list[Any], job: Job) -> tuple[Any, ...]:
    """Label values: texts of one line and finite numbers, no two the same. They go into messages and reports."""
    values = tuple(_cleaned(value) for value in told)
    alike = [raw.plain(value) for value in values]
    odd = [one for one in alike if one is None or (isinstance(one, float) and not math.isfinite(one))]
    if odd or len(set(alike)) < len(alike) or any(len(one) > MOST_NAME for one in alike if isinstance(one, str)):
        raise ModelOutputUnusable("the model's classes are no plain label values, or two are the same", job.hint)
    return values


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {clean(k): _cleaned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_cleaned(v) for v in value]
    return clean(value) if isinstance(value, str) else value


def _evaluable(outputs: Outputs, description: Description) -> None:
    classes = outputs.values.shape[1]
    if description.classes is not None and len(description.classes) != classes:
        raise ModelOutputUnusable(
            f"the model answers with {classes} columns and knows {len(description.classes)} classes",
            "log the model whose classes_ belong to its outputs",
        )
    if len(outputs.values) > 1 and (outputs.values == outputs.values[0]).all():
        raise NotEvaluable(
            f"the model gives the same answer to all {len(outputs.values)} records",
            "nothing can be learned from it; check that the features reach the model",
        )
