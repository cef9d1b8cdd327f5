"""The street: registry, shadows, signals, attacks, risk, validity, policy, report. Read `check` first.

Effects stand at both ends; everything from `observe` to the verdict is pure.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from privacy_gate import annex, manifest
from privacy_gate.baseline import Anchor, Subject, anchor, member_list, regression
from privacy_gate.causes.influence import influences
from privacy_gate.causes.suspects import label_noise_suspects, outlier_suspects
from privacy_gate.closing import Known, Outcome, conclude, judged, known, spent, trace, undone
from privacy_gate.datamodel import (
    AttackResult,
    Audit,
    Candidate,
    Description,
    Estimand,
    Evidence,
    Ints,
    Observations,
    Outputs,
    Regression,
    Role,
    ShadowPlan,
)
from privacy_gate.defences import NOTHING, Declared, Defences, declared
from privacy_gate.errors import EvaluationFailed, GateError, NotEvaluable, StorageFailed, UsageError
from privacy_gate.evaluate import HIGH_SCORE, evaluate
from privacy_gate.features import take
from privacy_gate.inputs import look
from privacy_gate.manifest import DUPLICATES, Dataset
from privacy_gate.observe import Answers, Observed, from_file, from_shadows, observe
from privacy_gate.policy import Policy, judge, notes
from privacy_gate.policy.attempts import attempt_number
from privacy_gate.procedure import FEWEST_RUNS
from privacy_gate.registry import RESTRICTED_FOLDER, Registry, open_registry
from privacy_gate.reports import clear, document
from privacy_gate.reports.assemble import shadows as describe_shadows
from privacy_gate.request import CheckRequest, Config
from privacy_gate.sandbox import examine
from privacy_gate.shadows import plan as plans
from privacy_gate.shadows.recipes.load import finished
from privacy_gate.shadows.store import Store
from privacy_gate.shadows.train import TrainingTask, train
from privacy_gate.shadows.train import prepare as training_task
from privacy_gate.storage import private_dir
from privacy_gate.terms import Terms, seed_of, settle, store_path

_ORDER_STREAM = 5  # keeps this draw apart from every other use of the run's seed


class Progress(Protocol):
    """Whoever watches: the console, or nobody."""

    def stage(self, text: str) -> None:
        """A step begins."""

    def shadows(self, done: int, total: int, cached: int, remaining: float | None) -> None:
        """`done` of `total` shadows are there."""

    def close(self) -> None:
        """Nothing more will come."""


class Silent:
    """Nobody watches."""

    def stage(self, text: str) -> None:
        """Nothing."""

    def shadows(self, done: int, total: int, cached: int, remaining: float | None) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def check(request: CheckRequest, progress: Progress | None = None) -> Outcome:
    """Judge one model, or predictions alone; writes the report for every exit code but 2.

    Errors: UsageError (exit 2). Whatever else breaks becomes a report with status `error` or `inconclusive`.
    """
    watch = progress or Silent()
    began = time.time()
    clear(request.out)
    annex.clear(request.out / RESTRICTED_FOLDER)
    terms = settle(request)
    _require_folder(request.out)
    parts = known(request, terms.policy)
    parts.add(warnings=tuple(notes(terms.policy, terms.today)))
    try:
        if request.observations is not None:
            evidence = _judge_predictions(request, terms, parts)
        else:
            store = Store(store_path(request))
            with store.workdir() as work:
                evidence = _judge_model(request, terms, store, work, parts, watch)
        policy = spent(terms.policy, evidence.attempt)
        verdict = judge(policy, evidence, waivers=terms.waivers, model=parts.model, today=terms.today)
    except UsageError:
        raise
    except GateError as error:
        verdict = undone(error)
        parts.add(errors=(error,))
        trace()
    except OSError as error:
        broken = StorageFailed(
            f"{error.filename or 'disk'}: {error.strerror or error}", "free some space, then run again"
        )
        verdict = undone(broken)
        parts.add(errors=(broken,))
        trace()
    except Exception as error:
        # A defect of the gate is exit 3 with a report that says so; it is never a violation and never a pass.
        # Its text may quote a record, so only its type is told.
        verdict = undone(EvaluationFailed(f"unexpected {type(error).__name__}"))
        parts.add(errors=(error,))
        trace()
    finally:
        watch.close()
    return conclude(request, terms.policy, verdict, parts, began)


def _require_folder(out: Path) -> None:
    """Hours of training must not end in a report that cannot be written."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out: {out} is not a folder", "name another one; it is made where there is none")
    private_dir(out)


# --- the street -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What `plan` shows and `check` starts from. Nothing is trained yet.

    labels    [U] class indices
    target    [R, K] the candidate's answers
    beside    [D, K] its answers on the records of its defence; None where that has none
    defences  the config's, or where it names none, those that the registry declares with their settings
    plan      None where no shadow is wanted
    task      what the shadows are trained with; None where they are loaded or not wanted
    loaded    answers of loaded shadows
    """

    registry: Registry
    candidate: Candidate
    description: Description
    dataset: Dataset
    audit: Audit
    labels: Ints
    target: Outputs
    beside: Outputs | None
    defences: Defences
    declared: Declared
    deterministic: bool
    plan: ShadowPlan | None
    task: TrainingTask | None
    loaded: tuple[Outputs, ...] = ()


def prepare(request: CheckRequest, terms: Terms, work: Path, parts: Known, watch: Progress) -> Prepared:
    """Resolve, snapshot, read the records, score the target in a process of its own, plan the shadows."""
    config = _config(request)
    uri = request.model or config.model
    if uri is None:
        raise UsageError("no model was named", "privacy-gate check models:/NAME@ALIAS, or model: in the config")
    parts.defences = terms.defences
    registry = open_registry(config.tracking_uri, config.registry_uri, uri)
    parts.registry = registry
    watch.stage(f"resolving {uri}")
    candidate = registry.resolve(uri, work / "candidate")
    parts.add(candidate=candidate)
    tagged = declared(candidate.tags)
    defences = terms.defences or tagged.defences or NOTHING
    parts.defences = defences
    watch.stage("reading the records")
    dataset = manifest.load(
        config.data,
        request.config_dir,
        lambda source: registry.fetch(source, work / "fetched"),
        reference=defences.reference,
    )
    _require_reference(defences, dataset)
    others = {"population": dataset.population, "seen": dataset.seen}
    parts.add(
        digests=dataset.digests,
        removed=dataset.removed,
        train_size=dataset.train_size,
        others={role: count for role, count in others.items() if count},
    )
    watch.stage(f"scoring {dataset.audited:,} records with {candidate.resolved_uri} in a process of its own")
    asked = np.concatenate([np.arange(dataset.audited), np.flatnonzero(dataset.role_mask(Role.SEEN))])
    # In an order that tells nothing: members first would tell a model whom it is asked about, batch by batch.
    order = np.random.default_rng([_ORDER_STREAM, seed_of(request)]).permutation(len(asked))
    description, scored = examine(
        candidate, take(dataset.features, asked[order]), work, kind=config.output, logs=store_path(request) / "logs"
    )
    answers = scored.outputs.values[np.argsort(order)]
    target = replace(scored.outputs, values=answers[: dataset.audited])
    beside = replace(scored.outputs, values=answers[dataset.audited :]) if dataset.reference else None
    parts.add(description=description)
    if dataset.twins:
        parts.warn(f"{dataset.twins:,} records are identical to another one; copies count as one person")
    classes = manifest.class_order(description.classes, config.data.classes, scored.outputs.values.shape[1])
    labels = manifest.encode(dataset.raw_labels, classes)
    audit = manifest.audit(dataset, labels, classes)
    parts.add(audit=audit)
    _require_estimand(terms.policy, dataset, config.shadows.count)
    plan, task, loaded = _planned(
        request, config, candidate, description, dataset, labels, classes, scored.outputs.kind
    )
    return Prepared(
        registry=registry,
        candidate=candidate,
        description=description,
        dataset=dataset,
        audit=audit,
        labels=labels,
        target=target,
        beside=beside,
        defences=defences,
        declared=tagged,
        deterministic=scored.deterministic,
        plan=plan,
        task=task,
        loaded=loaded,
    )


def _require_reference(defences: Defences, dataset: Dataset) -> None:
    if defences.reference and not dataset.reference:
        raise UsageError(
            f"the defence {defences.name} was fitted to records of its own; the config names none",
            "name them under data.seen: they were seen by the defence, so they are neither members nor non-members",
        )


def _require_estimand(policy: Policy, dataset: Dataset, shadows: int) -> None:
    """What the policy asks about must be there before hours are spent."""
    missing = dataset.train_size - dataset.members - dataset.removed.get(DUPLICATES, 0)
    if policy.estimand is Estimand.CENSUS and missing > 0:
        raise NotEvaluable(
            f"the policy asks for a census, but {dataset.members:,} of {dataset.train_size:,} training records are "
            "members here: not all members are audited",
            "list all training records under data.members, or set `estimand: artefact` in the policy",
        )
    if policy.estimand is Estimand.PROCEDURE and shadows < FEWEST_RUNS:
        raise NotEvaluable(
            f"the policy asks about the training procedure, which takes {FEWEST_RUNS} retrained models; "
            f"shadows.count is {shadows}",
            f"set shadows.count to {FEWEST_RUNS} or more, or `estimand: artefact` in the policy",
        )


def _planned(
    request: CheckRequest,
    config: Config,
    candidate: Candidate,
    description: Description,
    dataset: Dataset,
    labels: Ints,
    classes: tuple[Any, ...],
    kind: Literal["logits", "probabilities"],
) -> tuple[ShadowPlan | None, TrainingTask | None, tuple[Outputs, ...]]:
    members, nonmembers = dataset.role_mask(Role.MEMBERS), dataset.role_mask(Role.NONMEMBERS)
    population = dataset.role_mask(Role.POPULATION)
    count, seed, recipe = config.shadows.count, seed_of(request), config.shadows.recipe
    if recipe.load is not None:
        path = request.config_dir / recipe.load
        plan, outputs = finished(path, len(labels), len(classes), members | nonmembers, dataset.train_size)
        return plan, None, tuple(outputs)
    if count == 0:
        return None, None, ()
    task = training_task(
        recipe,
        folder=request.config_dir,
        candidate=candidate,
        description=description,
        features=dataset.features,
        labels=labels,
        class_values=classes,
        # Shadows are read the way the target was: one of them must not be taken for probabilities by accident.
        kind=kind,
    )
    if config.shadows.plan == "disjoint":
        plan = plans.disjoint(dataset.persons, population, count, dataset.train_size, seed, labels)
    else:
        plan = plans.balanced(dataset.persons, members, nonmembers, population, count, dataset.train_size, seed)
    return plan, task, ()


def _config(request: CheckRequest) -> Config:
    if request.config is None:
        raise UsageError(
            "no configuration: which records were members?",
            "give --config privacy-gate.yaml (privacy-gate init drafts one), or judge predictions with --observations",
        )
    return request.config


def _judge_model(
    request: CheckRequest, terms: Terms, store: Store, work: Path, parts: Known, watch: Progress
) -> Evidence:
    ready = prepare(request, terms, work, parts, watch)
    number = _attempt(ready, terms.policy, parts)
    approved = anchor(terms.baseline, ready.registry, work) if terms.baseline is not None else None
    outputs: tuple[Outputs, ...] = ()
    if ready.plan is not None:
        outputs = _shadow_outputs(request, ready, store, parts, watch)
    answers = _answers(ready, outputs)
    watch.stage(f"running {len(terms.attacks)} attacks")
    observed = observe(answers, ready.audit, terms.attacks, ready.defences, parts.seed)
    _note_accuracy(ready, outputs, observed, parts)
    audit = ready.audit
    evaluation = evaluate(
        observed,
        audit,
        terms.attacks,
        parts.seed,
        plan=ready.plan,
        duplicates=ready.dataset.removed.get(DUPLICATES, 0),
        candidates=ready.dataset.candidates,
        deterministic=ready.deterministic,
        declared=ready.declared,
        defences=ready.defences,
        train_size=ready.dataset.train_size,
        model=ready.description,
        policy=terms.in_effect,
        inputs=look(ready.dataset.features, audit.labels, audit.member, audit.persons, parts.seed),
    )
    evidence = replace(judged(evaluation, parts), attempt=number)
    if request.records == "restricted" and terms.key is not None:
        rows = _rows(ready.dataset, audit, observed.views[0].seen, evidence)
        if rows is None:
            parts.warn("--records: no risk scores were estimated, so records.parquet was not written")
        else:
            parts.annex = annex.write(request.out / RESTRICTED_FOLDER, rows, terms.key)
    if terms.key is not None:
        parts.members = member_list(ready.dataset, ready.dataset.people, terms.key, ready.candidate.digest)
    if approved is None:
        return evidence
    watch.stage(f"comparing with {terms.baseline}")
    return replace(evidence, regression=_regression(request, terms, ready, approved, evidence, work, parts))


def _answers(ready: Prepared, outputs: Sequence[Outputs]) -> Answers:
    """What the candidate and its shadows said, on the audited records and on those of the defence."""
    if ready.plan is None:
        return Answers(ready.target, beside=ready.beside)
    answers = from_shadows(ready.target, outputs, ready.plan, ready.labels, ready.dataset.persons)
    rows = np.flatnonzero(ready.dataset.role_mask(Role.SEEN))
    others = tuple(replace(o, values=o.values[rows]) for o in outputs) if len(rows) else ()
    return replace(answers, beside=ready.beside, beside_shadows=others)


def _rows(dataset: Dataset, audit: Audit, seen: Observations, evidence: Evidence) -> annex.Rows | None:
    """What the annex says of each record; None without risk scores."""
    if evidence.risk is None:
        return None
    # Of the training procedure the scores are another model's.
    own = evidence.attacks if evidence.estimand is not Estimand.PROCEDURE else ()
    scores = {o.id: o.scores for o in own if isinstance(o, AttackResult) and o.adaptive}
    suspects = {"label_noise": label_noise_suspects(seen), "outlier": outlier_suspects(seen, ~audit.member)}
    return annex.Rows(
        ids=dataset.ids.tolist(),
        person_ids=None if dataset.people is None else dataset.people.tolist(),
        audit=audit,
        risk=evidence.risk,
        score=HIGH_SCORE,
        attacks={id: scores[id] for id in ("lira", "modified_entropy") if id in scores},
        influence=influences(seen),
        suspects={kind: found for kind, found in suspects.items() if found is not None},
    )


def _attempt(ready: Prepared, policy: Policy, parts: Known) -> int:
    """Which evaluation of this model on other data or seeds this is, as far as the registry remembers."""
    remembered = ready.registry.attempts(ready.candidate)
    number = attempt_number(remembered.attempts or (), ready.dataset.digest, parts.seed)
    levels = spent(policy, number)
    parts.add(
        attempt=document.Attempt(
            number=number,
            recorded=remembered.attempts is not None,
            alpha_pass=levels.alpha_pass,
            alpha_fail=levels.alpha_fail,
            note="; ".join(remembered.warnings),
        )
    )
    parts.data_sha256 = ready.dataset.digest
    parts.earlier = None if remembered.attempts is None else len(remembered.attempts)
    return number


def _regression(
    request: CheckRequest, terms: Terms, ready: Prepared, approved: Anchor, evidence: Evidence, work: Path, parts: Known
) -> Regression:
    declared = _config(request).data.classes
    columns = ready.target.values.shape[1]
    classes = manifest.class_order(ready.description.classes, declared, columns)
    found = regression(
        approved,
        Subject(ready.candidate, ready.dataset, ready.dataset.people, ready.audit, ready.target, classes),
        evidence.attacks,
        terms.attacks,
        parts.seed,
        work=work,
        key=terms.key,
        defences=ready.defences,
        declared_classes=declared,
        logs=store_path(request) / "logs",
        estimand=evidence.estimand,
    )
    parts.add(regression=found)
    if found.note:
        parts.warn(f"baseline {found.reference}: {found.note}")
    return found


def _shadow_outputs(
    request: CheckRequest, ready: Prepared, store: Store, parts: Known, watch: Progress
) -> tuple[Outputs, ...]:
    if ready.plan is None or ready.task is None:
        return ready.loaded
    config = _config(request)
    shadows = train(
        ready.plan,
        ready.task,
        store,
        jobs=request.jobs,
        timeout=config.shadows.timeout,
        retries=config.shadows.retries,
        progress=lambda p: watch.shadows(p.done, p.total, p.cached, p.remaining),
    )
    parts.trained, parts.cached = shadows.trained, shadows.cached
    return shadows.outputs


def _note_accuracy(ready: Prepared, outputs: Sequence[Outputs], observed: Observed, parts: Known) -> None:
    if ready.plan is None:
        return
    labels = ready.labels
    correct = np.stack([o.values.argmax(axis=1) == labels for o in outputs])
    member = ready.plan.member
    pool = ready.plan.pool
    parts.add(
        shadows=describe_shadows(
            ready.plan,
            accuracy_in=float(correct[member].mean()) if member.any() else None,
            accuracy_out=float(correct[:, pool][~member[:, pool]].mean()) if (~member[:, pool]).any() else None,
            target_accuracy_members=float(observed.target_correct[ready.audit.member].mean()),
            target_accuracy_nonmembers=float(observed.target_correct[~ready.audit.member].mean()),
        )
    )


def _judge_predictions(request: CheckRequest, terms: Terms, parts: Known) -> Evidence:
    assert request.observations is not None
    answers, audit, removed = from_file(request.observations)
    parts.add(audit=audit, removed=removed, uri=None)
    observed = observe(answers, audit, terms.attacks)
    evaluation = evaluate(
        observed, audit, terms.attacks, parts.seed, candidates=len(audit.labels), policy=terms.in_effect
    )
    return judged(evaluation, parts)


# --- shadows ahead of time --------------------------------------------------------------------------------------------


def train_shadows(request: CheckRequest, progress: Progress | None = None) -> tuple[int, int]:
    """Fill the store ahead of time; returns (trained now, already there). Errors as they come: no report is written."""
    terms = settle(request)
    watch, parts = progress or Silent(), known(request, terms.policy)
    store = Store(store_path(request))
    try:
        with store.workdir() as work:
            ready = prepare(request, terms, work, parts, watch)
            _shadow_outputs(request, ready, store, parts, watch)
    finally:
        watch.close()
    return parts.trained or 0, parts.cached or 0
