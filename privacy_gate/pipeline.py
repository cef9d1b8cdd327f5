"""The street: registry, shadows, signals, attacks, risk, validity, policy, report. Read `check` first.

Effects stand at both ends; everything from `observe` to the verdict is pure.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from privacy_gate import manifest, metrics
from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import (
    AttackOutcome,
    AttackResult,
    Audit,
    Candidate,
    Description,
    Evidence,
    Finding,
    Outputs,
    RiskScores,
    Role,
    ShadowPlan,
    Verdict,
    VerdictStatus,
)
from privacy_gate.defences import CATALOG as DEFENCES
from privacy_gate.defences import OutputDefence
from privacy_gate.errors import EvaluationFailed, ExitCode, GateError, StorageFailed, UnsupportedModel, UsageError
from privacy_gate.manifest import DUPLICATES, Dataset
from privacy_gate.measure import measure
from privacy_gate.observe import Answers, Observed, from_file, from_shadows, observe
from privacy_gate.policy import Policy, judge, resolve, suite
from privacy_gate.registry import Registry, open_registry
from privacy_gate.reports import document, write
from privacy_gate.reports.assemble import Parts
from privacy_gate.reports.assemble import report as assemble
from privacy_gate.reports.assemble import shadows as describe_shadows
from privacy_gate.reports.document import Report
from privacy_gate.request import CheckRequest, Config
from privacy_gate.risk import CATALOG as ESTIMATORS
from privacy_gate.risk import RiskInput
from privacy_gate.risk.summary import summarise
from privacy_gate.sandbox import examine
from privacy_gate.shadows import plan as plans
from privacy_gate.shadows.store import Store
from privacy_gate.shadows.train import TrainingTask, finished, train
from privacy_gate.storage import private_dir
from privacy_gate.validity import CATALOG as CHECKS
from privacy_gate.validity import Circumstances

JUDGED_ESTIMATOR = "calibrated"
ALPHA_VALIDITY = 0.05


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run leaves: the report, the exit code, and where the files are."""

    report: Report
    exit_code: int
    paths: dict[str, Path]


def check(request: CheckRequest, progress: Progress | None = None) -> Outcome:
    """Judge one model, or predictions alone; writes the report for every exit code but 2.

    Errors: UsageError (exit 2). Whatever else breaks becomes a report with status `error` or `inconclusive`.
    """
    watch = progress or Silent()
    began = time.time()
    policy, attacks, defence = _settle(request)
    parts = _Known(
        seed=_seed(request),
        suite=request.suite,
        policy=document.Policy(
            name=policy.name, profile=policy.profile, digest=policy.digest, resolved=dict(policy.resolved)
        ),
        uri=request.model or (request.config.model if request.config else None),
        exit_zero=request.exit_zero,
        defence=dict(request.config.defence) if request.config else {},
    )
    registry: Registry | None = None
    try:
        with _workdir(_store_path(request)) as work:
            if request.observations is not None:
                evidence = _judge_predictions(request, attacks, parts)
            else:
                registry, evidence = _judge_model(request, attacks, defence, work, parts, watch)
            watch.stage("judging")
            verdict = judge(policy, evidence)
    except UsageError:
        raise
    except GateError as error:
        verdict = _undone(error)
        parts.add(errors=(error,))
    except OSError as error:
        broken = StorageFailed(
            f"{error.filename or 'disk'}: {error.strerror or error}", "free some space, then run again"
        )
        verdict = _undone(broken)
        parts.add(errors=(broken,))
    except Exception as error:
        # A defect of the gate is exit 3 with a report that says so; it is never a violation and never a pass.
        verdict = _undone(EvaluationFailed(f"unexpected {type(error).__name__}: {error}"))
        parts.add(errors=(error,))
        if os.environ.get("PRIVACY_GATE_DEBUG"):
            raise
    finally:
        watch.close()
    return _conclude(request, policy, verdict, parts, registry, began)


# --- before anything is touched -------------------------------------------------------------------------------------


def _settle(request: CheckRequest) -> tuple[Policy, list[str], OutputDefence | None]:
    """Policy, attacks and defence by name: every misspelling is found before a model is downloaded."""
    policy = resolve(policy_source(request))
    chosen = (request.config.attacks if request.config else None) or suite(request.suite)
    attacks = [ATTACKS[name].id for name in dict.fromkeys(chosen)]
    defence = None
    if request.config:
        for name, settings in request.config.defence.items():
            defence = DEFENCES[name].configure(settings)
    return policy, attacks, defence


def policy_source(request: CheckRequest) -> Path | str:
    """The policy asked for, the one the config names, or the profile (default: standard)."""
    if request.policy is not None and request.profile is not None:
        raise UsageError("--policy and --profile exclude each other", "a policy file names its profile with extends:")
    if request.policy is not None:
        return request.policy
    if request.profile is None and request.config is not None and request.config.policy is not None:
        return request.config_dir / request.config.policy
    return request.profile or "standard"


def _seed(request: CheckRequest) -> int:
    if request.seed is not None:
        return request.seed
    return request.config.seed if request.config else 0


def _store_path(request: CheckRequest) -> Path:
    if request.store is not None:
        return request.store
    if request.config is not None and request.config.store is not None:
        return request.config_dir / request.config.store
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("PRIVACY_GATE_STORE") or Path(cache) / "privacy-gate")


@contextlib.contextmanager
def _workdir(store: Path) -> Iterator[Path]:
    """A private folder beside the store, gone afterwards; folders of gates that were killed are swept."""
    base = private_dir(store / "work")
    for stale in base.glob("*.*"):
        pid = stale.name.split(".")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc").exists():
            shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}.", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- the street -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What `plan` shows and `check` starts from: candidate, records, answers of the target, and the shadow plan."""

    registry: Registry
    candidate: Candidate
    description: Description
    dataset: Dataset
    audit: Audit
    target: Outputs
    deterministic: bool
    task: TrainingTask
    plan: ShadowPlan | None
    store: Store


def prepare(request: CheckRequest, work: Path, parts: _Known, watch: Progress) -> Prepared:
    """Resolve, snapshot, load the data, score the target in a process of its own, plan the shadows. Trains nothing."""
    config = _config(request)
    uri = request.model or config.model
    if uri is None:
        raise UsageError("no model was named", "privacy-gate check models:/NAME@ALIAS, or model: in the config")
    registry = open_registry(config.tracking_uri, config.registry_uri, uri=uri)
    watch.stage(f"resolving {uri}")
    candidate = registry.resolve(uri, work / "candidate")
    parts.add(candidate=candidate)
    watch.stage("reading records")
    dataset = manifest.load(config.data, request.config_dir, lambda source: registry.fetch(source, work / "fetched"))
    parts.add(
        digests=dataset.digests,
        removed=dataset.removed,
        train_size=dataset.train_size,
        others={role: count for role, count in (("population", dataset.population), ("seen", dataset.seen)) if count},
    )
    watch.stage(f"scoring {dataset.audited:,} records with {candidate.resolved_uri} in a process of its own")
    audited = manifest.take(dataset.features, np.arange(dataset.audited))
    description, scored = examine(candidate, audited, work, kind=config.output)
    parts.add(description=description)
    if description.kind == "regressor":
        raise UnsupportedModel(f"{candidate.resolved_uri} is a regression model", "the gate judges classifiers")
    classes = manifest.class_order(description.classes, config.data.classes, scored.outputs.values.shape[1])
    labels = manifest.encode(dataset.raw_labels, classes)
    audit = manifest.audit(dataset, labels, classes)
    parts.add(audit=audit)
    task = TrainingTask(
        candidate=candidate,
        description=description,
        recipe=config.shadows.recipe,
        config_dir=request.config_dir,
        features=dataset.features,
        labels=labels,
        class_values=classes,
        data_digest=dataset.digest,
        output=config.output,
        device=request.device,
        workdir=work,
    )
    plan = _plan(config, dataset, labels, task, _seed(request))
    return Prepared(
        registry=registry,
        candidate=candidate,
        description=description,
        dataset=dataset,
        audit=audit,
        target=scored.outputs,
        deterministic=scored.deterministic,
        task=task,
        plan=plan,
        store=Store(_store_path(request) / "shadows"),
    )


def _config(request: CheckRequest) -> Config:
    if request.config is None:
        raise UsageError(
            "no configuration: which records were members?",
            "give --config privacy-gate.yaml (privacy-gate init drafts one), or judge predictions with --observations",
        )
    return request.config


def _plan(config: Config, dataset: Dataset, labels: Any, task: TrainingTask, seed: int) -> ShadowPlan | None:
    """None where no shadow is wanted; loaded shadows bring their own masks."""
    if config.shadows.recipe.load is not None:
        return finished(task)[0]
    if config.shadows.count == 0:
        return None
    if config.shadows.plan == "disjoint":
        return plans.disjoint(
            dataset.persons,
            dataset.role_mask(Role.POPULATION),
            config.shadows.count,
            dataset.train_size,
            seed,
            labels,
        )
    return plans.balanced(
        dataset.persons,
        dataset.role_mask(Role.MEMBERS),
        dataset.role_mask(Role.NONMEMBERS),
        dataset.role_mask(Role.POPULATION),
        config.shadows.count,
        dataset.train_size,
        seed,
    )


def _judge_model(
    request: CheckRequest,
    attacks: Sequence[str],
    defence: OutputDefence | None,
    work: Path,
    parts: _Known,
    watch: Progress,
) -> tuple[Registry, Evidence]:
    ready = prepare(request, work, parts, watch)
    parts.registry = ready.registry
    outputs: tuple[Outputs, ...] = ()
    if ready.plan is not None:
        outputs = _shadow_outputs(request, ready, parts, watch)
    answers = (
        from_shadows(ready.target, outputs, ready.plan, ready.task.labels) if ready.plan else Answers(ready.target)
    )
    watch.stage(f"running {len(attacks)} attacks")
    observed = observe(answers, ready.audit, attacks, defence)
    _note_accuracy(ready, outputs, observed, parts)
    return ready.registry, _evidence(
        observed,
        ready.audit,
        attacks,
        parts,
        plan=ready.plan,
        duplicates=ready.dataset.removed.get(DUPLICATES, 0),
        candidates=ready.dataset.candidates,
        deterministic=ready.deterministic,
        declared_defence=ready.candidate.tags.get("defence"),
        defence=next(iter(_config(request).defence), ""),
        train_size=ready.dataset.train_size,
        model=ready.description,
    )


def _shadow_outputs(request: CheckRequest, ready: Prepared, parts: _Known, watch: Progress) -> tuple[Outputs, ...]:
    assert ready.plan is not None
    if ready.task.recipe.load is not None:
        return tuple(finished(ready.task)[1])
    config = _config(request)
    shadows = train(
        ready.plan,
        ready.task,
        ready.store,
        jobs=request.jobs,
        timeout=config.shadows.timeout,
        retries=config.shadows.retries,
        progress=lambda p: watch.shadows(p.done, p.total, p.cached, p.remaining),
    )
    parts.trained, parts.cached = shadows.trained, shadows.cached
    return tuple(shadows.outputs)


def _note_accuracy(ready: Prepared, outputs: Sequence[Outputs], observed: Observed, parts: _Known) -> None:
    if ready.plan is None:
        return
    labels = ready.task.labels
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


def _judge_predictions(request: CheckRequest, attacks: Sequence[str], parts: _Known) -> Evidence:
    assert request.observations is not None
    answers, audit, removed = from_file(request.observations)
    parts.add(audit=audit, removed=removed, uri=None)
    observed = observe(answers, audit, attacks, None)
    return _evidence(
        observed,
        audit,
        attacks,
        parts,
        plan=None,
        duplicates=0,
        candidates=len(audit.labels),
        deterministic=True,
        declared_defence=None,
        defence="",
        train_size=int(audit.member.sum()),
        model=None,
    )


def _evidence(observed: Observed, audit: Audit, attacks: Sequence[str], parts: _Known, **about: Any) -> Evidence:
    """Attacks, risk and validity on what was observed: pure, and the same for models and for predictions alone."""
    outcomes = tuple(
        outcome
        for view in observed.views
        for name in attacks
        for outcome in measure(ATTACKS[name], view, audit, parts.seed)
    )
    risks = _risks(observed, audit, outcomes, parts)
    judged = next((risk for risk in risks if risk.estimator == JUDGED_ESTIMATOR), None)
    findings = _findings(
        Circumstances(
            audit=audit,
            observations=observed.views[0].seen,
            attacks=outcomes,
            saturated=observed.saturated,
            target_correct=observed.target_correct,
            shadow_correct=observed.shadow_correct,
            seed=parts.seed,
            alpha=ALPHA_VALIDITY,
            limits={},
            **about,
        )
    )
    seen = observed.views[0].seen.target
    parts.add(
        attacks=outcomes,
        curves=_curves(outcomes, audit),
        risk=judged,
        shown_risk=tuple(risk for risk in risks if risk is not judged),
        signals={"logit confidence": seen["logit_confidence"], "entropy": seen["entropy"]}
        if "entropy" in seen
        else {"logit confidence": seen["logit_confidence"]},
        findings=findings,
    )
    persons = [len(np.unique(audit.persons[side])) for side in (audit.member, ~audit.member)]
    return Evidence(
        attacks=outcomes,
        risk=judged,
        findings=findings,
        members=int(audit.member.sum()),
        nonmembers=int((~audit.member).sum()),
        member_persons=persons[0],
        nonmember_persons=persons[1],
        seed=parts.seed,
    )


def _risks(
    observed: Observed, audit: Audit, outcomes: Sequence[AttackOutcome], parts: _Known
) -> tuple[RiskScores, ...]:
    view = observed.views[0]
    scores = {o.id: o.scores for o in outcomes if isinstance(o, AttackResult) and o.adaptive}
    given = RiskInput(target=view.seen, pool=view.pool, scores=scores, audit=audit, seed=parts.seed)
    return tuple(
        summarise(e.id, e.estimate(given), audit) for e in ESTIMATORS if view.pool is not None or not e.needs_pool
    )


def _findings(circumstances: Circumstances) -> tuple[Finding, ...]:
    return tuple(check.run(circumstances) for check in CHECKS)


def _curves(outcomes: Sequence[AttackOutcome], audit: Audit) -> dict[str, Any]:
    curves: dict[str, Any] = {}
    for outcome in outcomes:
        if isinstance(outcome, AttackResult) and outcome.auc is not None and outcome.id not in curves:
            curves[outcome.id] = metrics.roc(outcome.scores, audit.member)
    return curves


# --- the end of the street ------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Known:
    """What the run has found out so far: a report can be written from it at any moment."""

    seed: int
    suite: str
    policy: document.Policy
    uri: str | None
    exit_zero: bool
    defence: dict[str, Any]
    found: dict[str, Any] = field(default_factory=dict)
    registry: Registry | None = None
    trained: int | None = None
    cached: int | None = None

    def add(self, **found: Any) -> None:
        """More is known."""
        self.found.update(found)


def _undone(error: GateError) -> Verdict:
    """The verdict that an error implies: nothing was shown, so nothing passes."""
    inconclusive = error.exit_code is ExitCode.INCONCLUSIVE
    return Verdict(
        status=VerdictStatus.INCONCLUSIVE if inconclusive else VerdictStatus.ERROR,
        exit_code=int(error.exit_code),
        headline=f"{'Not evaluable' if inconclusive else 'The evaluation failed'}: {error.what}",
        rules=(),
        counts={},
    )


def _conclude(
    request: CheckRequest, policy: Policy, verdict: Verdict, parts: _Known, registry: Registry | None, began: float
) -> Outcome:
    passed = verdict.exit_code == ExitCode.PASS
    excused = request.exit_zero and verdict.exit_code == ExitCode.VIOLATED
    exit_code = int(ExitCode.PASS) if excused else int(verdict.exit_code)
    now = datetime.datetime.now(datetime.UTC)
    run = document.Run(
        report_id=str(uuid.uuid4()),
        started_at=datetime.datetime.fromtimestamp(began, datetime.UTC).isoformat(timespec="seconds"),
        finished_at=now.isoformat(timespec="seconds"),
        duration_seconds=round(time.time() - began, 3),
        host=socket.gethostname(),
        argv=tuple(sys.argv[1:]),
        jobs=request.jobs,
        cache=document.Cache(trained=parts.trained, cached=parts.cached),
        versions=_versions(),
    )
    found = dict(parts.found)
    warnings = list(found.pop("warnings", ()))
    if excused:
        warnings.append("--exit-zero: the policy is violated; the process ends with 0 because the caller asked for it")
    report = assemble(
        Parts(
            verdict=verdict,
            valid_until=(now.date() + datetime.timedelta(days=policy.valid_days)).isoformat() if passed else None,
            exit_zero=request.exit_zero,
            exit_code=exit_code,
            policy=parts.policy,
            seed=parts.seed,
            suite=parts.suite,
            defence=parts.defence,
            run=run,
            warnings=tuple(warnings),
            **{"uri": parts.uri, **found},
        )
    )
    paths = write(report, request.out, request.formats)
    registry = registry or parts.registry
    if registry is not None and request.mlflow_log and "candidate" in found:
        report = _log(registry, found["candidate"], policy, report, paths, request)
    return Outcome(report=report, exit_code=exit_code, paths=paths)


def _log(
    registry: Registry,
    candidate: Candidate,
    policy: Policy,
    report: Report,
    paths: dict[str, Path],
    request: CheckRequest,
) -> Report:
    """Log the evidence, then say in the local report's `run` where it went."""
    recorded = registry.record(candidate, recorded_report(candidate, policy, report, paths))
    logged = document.MlflowLog(run_id=recorded.run_id, warning=recorded.warning)
    updated = report.model_copy(update={"run": report.run.model_copy(update={"mlflow": logged})})
    write(updated, request.out, request.formats)
    return updated


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for library in ("privacy-gate", "mlflow", "numpy", "scikit-learn", "scipy", "torch"):
        with contextlib.suppress(PackageNotFoundError):
            versions[library] = version(library)
    return versions
