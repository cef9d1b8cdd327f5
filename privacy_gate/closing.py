"""The end of the street: a verdict and all that was found out become a report, here and in the registry."""

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
import traceback
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from privacy_gate import annex, signoff
from privacy_gate.baseline import MemberList, save
from privacy_gate.datamodel import Candidate, Evidence, RuleStatus, Verdict, VerdictStatus
from privacy_gate.defences import NOTHING, Defences
from privacy_gate.errors import ExitCode, GateError, StorageFailed
from privacy_gate.evaluate import Evaluation
from privacy_gate.ladder import Facts
from privacy_gate.policy import Model, Policy
from privacy_gate.policy.attempts import spend
from privacy_gate.registry import MEMBERS, RESTRICTED_FOLDER, Recorded, RecordedReport, Registry
from privacy_gate.reports import ATTESTATION, document, write
from privacy_gate.reports import CATALOG as FORMATS
from privacy_gate.reports.assemble import Parts
from privacy_gate.reports.assemble import report as assemble
from privacy_gate.reports.document import Report
from privacy_gate.request import CheckRequest
from privacy_gate.storage import private_dir
from privacy_gate.terms import seed_of


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run leaves: the report, the exit code, and where the files are."""

    report: Report
    exit_code: int
    paths: dict[str, Path]


@dataclass(slots=True, eq=False)
class Known:
    """What the run has found out so far: a report can be written from it at any moment."""

    seed: int
    suite: str
    policy: document.Policy
    uri: str | None
    exit_zero: bool
    found: dict[str, Any] = field(default_factory=dict)
    registry: Registry | None = None
    trained: int | None = None
    cached: int | None = None
    data_sha256: str = ""
    references: str = ""
    members: MemberList | None = None
    annex: Path | None = None
    earlier: int | None = None
    defences: Defences = NOTHING
    evidence: Facts | None = None

    @property
    def model(self) -> Model:
        """What waivers can be about."""
        candidate: Candidate | None = self.found.get("candidate")
        return Model() if candidate is None else Model(candidate.name, candidate.version, candidate.digest)

    def warn(self, text: str) -> None:
        """One more warning for people."""
        self.add(warnings=(*self.found.get("warnings", ()), text))

    def add(self, **found: Any) -> None:
        """More is known."""
        self.found.update(found)


def known(request: CheckRequest, policy: Policy) -> Known:
    """Nothing yet but what was asked for."""
    return Known(
        seed=seed_of(request),
        suite=request.suite,
        policy=document.Policy(
            name=policy.name, profile=policy.profile, digest=policy.digest, resolved=dict(policy.resolved)
        ),
        uri=request.model or (request.config.model if request.config else None),
        exit_zero=request.exit_zero,
    )


def spent(policy: Policy, number: int) -> Policy:
    """The policy with the levels that are left to the `number`-th evaluation of one model."""
    return replace(policy, alpha_pass=spend(policy.alpha_pass, number), alpha_fail=spend(policy.alpha_fail, number))


def trace() -> None:
    """With --debug the stack trace as well; the report is written all the same."""
    if os.environ.get("PRIVACY_GATE_DEBUG"):
        traceback.print_exc()


PREVIOUS = "previous"  # folder in that of the report


def set_aside(out: Path) -> Path | None:
    """Move the report of an earlier run, and what belongs to it, into `out`/previous until a model is judged again.

    A pass that stood where a later run ended with 2 would be read as its own; and a misspelt option must not cost a
    release its signed report. What stands beside an earlier report that waits there already is none of a judgement: it
    is removed. Decisions are about many reports: signoff.json stays, the report gets a copy.
    Returns the folder, None if no report is there. Raises StorageFailed.
    """
    aside, moving = out / PREVIOUS, out / f".{PREVIOUS}"
    names = _names()
    report = names[0]
    try:
        if not (aside / report).exists() and ((out / report).exists() or (moving / report).exists()):
            _drop(aside)
            private_dir(moving)
            for name in names:  # the report first: whatever stops us here, no pass is left where one is looked for
                if (out / name).exists():
                    private_dir((moving / name).parent)
                    (out / name).replace(moving / name)
            if (out / signoff.FILE).exists():
                shutil.copy2(out / signoff.FILE, moving / signoff.FILE)
            moving.rename(aside)
        if out.is_dir():
            for name in names:
                (out / name).unlink(missing_ok=True)
        return aside if (aside / report).exists() else None
    except OSError as error:
        waits = f"; the earlier report waits in {moving}" if (moving / report).exists() else ""
        hint = f"move away what others keep there, or choose another folder{waits}"
        raise StorageFailed(f"{error.filename2 or error.filename}: {error.strerror or error}", hint) from error


def _names() -> list[str]:
    """Files of a report in its folder, report.json first."""
    forms = sorted((form.filename for form in FORMATS), key=lambda name: name != FORMATS["json"].filename)
    return [*forms, ATTESTATION, f"{RESTRICTED_FOLDER}/{annex.FILE}"]


def _drop(aside: Path) -> None:
    """Remove a report that was set aside. What others put beside it stays. Raises StorageFailed."""
    if not aside.is_dir():
        return
    try:
        for name in (*_names(), signoff.FILE):
            (aside / name).unlink(missing_ok=True)
        for folder in (aside / RESTRICTED_FOLDER, aside):
            with contextlib.suppress(OSError):  # not empty, or not there
                folder.rmdir()
    except OSError as error:
        raise StorageFailed(f"{error.filename}: {error.strerror or error}", "remove it by hand") from error


def undone(error: GateError) -> Verdict:
    """The verdict that an error implies: nothing was shown, so nothing passes."""
    inconclusive = error.exit_code is ExitCode.INCONCLUSIVE
    return Verdict(
        status=VerdictStatus.INCONCLUSIVE if inconclusive else VerdictStatus.ERROR,
        exit_code=int(error.exit_code),
        headline=f"{'Not evaluable' if inconclusive else 'The evaluation failed'}: {error.what}",
        rules=(),
        counts={},
    )


def conclude(request: CheckRequest, policy: Policy, verdict: Verdict, parts: Known, began: float) -> Outcome:
    """Write the report, log the evidence; `began` is a time in seconds. Raises StorageFailed on a full disk."""
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
        earlier_evaluations=parts.earlier,
    )
    found = dict(parts.found)
    warnings = list(found.pop("warnings", ()))
    if parts.registry is not None and not request.mlflow_log:
        warnings.append("--no-mlflow-log: later evaluations of this model will not know that this one took place")
    if excused:
        warnings.append("--exit-zero: the policy is violated; the process ends with 0 because the caller asked for it")
    report = assemble(
        Parts(
            verdict=verdict,
            valid_until=_valid_until(policy, verdict, now.date()).isoformat() if passed else None,
            exit_zero=request.exit_zero,
            exit_code=exit_code,
            policy=parts.policy,
            seed=parts.seed,
            suite=parts.suite,
            defences=parts.defences,
            run=run,
            warnings=tuple(warnings),
            **{"uri": parts.uri, **found},
        )
    )
    paths = write(report, request.out, request.formats)
    if parts.annex is not None:
        paths["restricted"] = parts.annex
    if verdict.rules:  # judged: this report takes the place of the earlier one
        _drop(request.out / PREVIOUS)
    if parts.registry is not None and request.mlflow_log and "candidate" in found:
        with tempfile.TemporaryDirectory() as folder:
            kept = [] if parts.members is None else [save(parts.members, Path(folder) / MEMBERS)]
            recorded = replace(
                _recorded(found["candidate"], policy, report, paths, request),
                data_sha256=parts.data_sha256,
                references=parts.references,
                seed=parts.seed,
                exit_code=int(verdict.exit_code),
                restricted=kept,
            )
            report = _log(parts.registry, found["candidate"], recorded, report, request)
    return Outcome(report=report, exit_code=exit_code, paths=paths)


def _valid_until(policy: Policy, verdict: Verdict, today: datetime.date) -> datetime.date:
    """The policy's days, but no longer than the waivers that a pass rests on and the grace of rules that only warn."""
    ends = [today + datetime.timedelta(days=policy.valid_days)]
    ends += [datetime.date.fromisoformat(w.expires) for w in verdict.waivers if w.state == "active" and w.expires]
    ends += [
        datetime.date.fromisoformat(rule.enforce_from) - datetime.timedelta(days=1)
        for rule in verdict.rules
        if rule.enforce_from and rule.status not in (RuleStatus.PASS, RuleStatus.NOT_APPLICABLE)
    ]
    return min(ends)


def _log(
    registry: Registry, candidate: Candidate, evidence: RecordedReport, report: Report, request: CheckRequest
) -> Report:
    """Log the evidence, then say in the local report's `run` where it went."""
    try:
        recorded = registry.record(candidate, evidence)
    except GateError as error:
        recorded = Recorded(None, (f"nothing was written back: {error.what}",))
    logged = document.MlflowLog(run_id=recorded.run_id, warning="; ".join(recorded.warnings) or None)
    updated = report.model_copy(update={"run": report.run.model_copy(update={"mlflow": logged})})
    write(updated, request.out, request.formats)
    return updated


def _recorded(
    candidate: Candidate, policy: Policy, report: Report, paths: dict[str, Path], request: CheckRequest
) -> RecordedReport:
    worst = {f"privacy/{rule.id}_{rule.metric}": rule.value for rule in report.rules if rule.value is not None}
    high = {
        f"privacy/high_risk_members_at_{high.score:g}": float(high.members)
        for high in (report.risk.high if report.risk else ())
        if high.members is not None  # one to nine people are not shown
    }
    return RecordedReport(
        verdict=str(report.verdict.status),
        model_sha256=candidate.digest,
        policy_sha256=policy.digest,
        params={
            "model": candidate.resolved_uri,
            "policy": policy.name,
            "policy_sha256": policy.digest,
            "suite": request.suite,
            "seed": str(report.seed),
            "shadows": str(report.shadows.count if report.shadows else 0),
        },
        metrics={**worst, **high},
        files=[path for name, path in paths.items() if name in {"json", "html"}],
        note=FORMATS["markdown"].render(report),
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for library in ("privacy-gate", "mlflow", "numpy", "scikit-learn", "scipy", "torch"):
        with contextlib.suppress(PackageNotFoundError):
            versions[library] = version(library)
    return versions


def judged(evaluation: Evaluation, parts: Known) -> Evidence:
    """The evidence of an evaluation; the rest of it goes to the report."""
    parts.add(
        attacks=evaluation.evidence.attacks,
        curves=evaluation.curves,
        risk=evaluation.evidence.risk,
        shown_risk=evaluation.shown_risk,
        signals=evaluation.signals,
        findings=evaluation.evidence.findings,
        causes=evaluation.causes,
        risk_notes=evaluation.notes,
        estimand=evaluation.evidence.estimand,
        warnings=(*parts.found.get("warnings", ()), *evaluation.warnings),
    )
    return evaluation.evidence
