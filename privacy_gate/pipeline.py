"""The street: registry, shadows, signals, attacks, risk, validity, policy, report. Read `check` first.

Effects stand at both ends; everything from `observe` to the verdict is pure.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from privacy_gate import annex
from privacy_gate.baseline import Anchor, Subject, anchor, member_list, regression
from privacy_gate.causes.influence import influences
from privacy_gate.causes.suspects import label_noise_suspects, outlier_suspects
from privacy_gate.closing import Known, Outcome, conclude, judged, known, set_aside, spent, trace, undone
from privacy_gate.comparison import alternatives, benchmark, suggested
from privacy_gate.datamodel import (
    AttackResult,
    Audit,
    Estimand,
    Evidence,
    Observations,
    Outputs,
    Regression,
    Verdict,
)
from privacy_gate.errors import EvaluationFailed, GateError, StorageFailed, UsageError
from privacy_gate.evaluate import HIGH_SCORE, evaluate
from privacy_gate.inputs import look
from privacy_gate.ladder import would_decide
from privacy_gate.manifest import Dataset
from privacy_gate.observe import Observed, from_file, observe
from privacy_gate.policy import Policy, judge, notes
from privacy_gate.policy.attempts import attempt_number
from privacy_gate.preparation import Prepared, Progress, Silent, config_of, evaluated, facts, gather, prepare
from privacy_gate.registry import RESTRICTED_FOLDER
from privacy_gate.reports import document
from privacy_gate.reports.assemble import shadows as describe_shadows
from privacy_gate.request import CheckRequest
from privacy_gate.shadows.draw import draw
from privacy_gate.shadows.store import Store
from privacy_gate.storage import private_dir
from privacy_gate.terms import Terms, settle, store_path


def check(request: CheckRequest, progress: Progress | None = None, *, compare: bool = False) -> Outcome:
    """Judge one model, or predictions alone; writes the report for every exit code but 2.

    compare  also judge the candidate's recipe with other defences; the verdict does not depend on them
    Errors: UsageError (exit 2). Whatever else breaks becomes a report with status `error` or `inconclusive`.
    """
    watch = progress or Silent()
    began = time.time()
    set_aside(request.out)
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
                evidence = _judge_model(request, terms, store, work, parts, watch, compare)
        policy = spent(terms.policy, evidence.attempt)
        verdict = judge(policy, evidence, waivers=terms.waivers, model=parts.model, today=terms.today)
        parts.add(would_decide=_would_decide(parts, verdict, evidence))
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


def _judge_model(
    request: CheckRequest,
    terms: Terms,
    store: Store,
    work: Path,
    parts: Known,
    watch: Progress,
    compare: bool,
) -> Evidence:
    ready = prepare(request, terms, work, parts, watch, terms.others if compare else ())
    number = _attempt(ready, terms.policy, parts)
    approved = anchor(terms.baseline, ready.registry, work) if terms.baseline is not None else None
    answers = gather(request, ready, store, parts, watch)
    watch.stage(f"running {len(terms.attacks)} attacks")
    observed = observe(answers, ready.audit, terms.attacks, ready.defences, parts.seed)
    _note_accuracy(ready, answers.shadows, observed, parts)
    parts.evidence = facts(request, terms, ready, store, 0 if ready.plan is None else len(ready.plan.member))
    audit = ready.audit
    inputs = look(ready.dataset.features, audit.labels, audit.member, audit.persons, parts.seed)
    evaluation = evaluated(ready, terms, observed, parts.seed, inputs)
    evidence = replace(judged(evaluation, parts), attempt=number)
    if request.records == "restricted" and terms.key is not None:
        rows = _rows(ready.dataset, audit, observed.views[0].seen, evidence)
        if rows is None:
            parts.warn("--records: no risk scores were estimated, so records.parquet was not written")
        else:
            parts.annex = annex.write(request.out / RESTRICTED_FOLDER, rows, terms.key)
    if terms.key is not None:
        parts.members = member_list(ready.dataset, ready.dataset.people, terms.key, ready.candidate.digest)
    if approved is not None:
        watch.stage(f"comparing with {terms.baseline}")
        evidence = replace(evidence, regression=_regression(request, terms, ready, approved, evidence, work, parts))
    parts.add(frontier=benchmark(request, ready, observed, store, work, parts, watch))
    if compare:
        others = terms.others or suggested(ready, config_of(request))
        compared = alternatives(request, terms, ready, evidence, observed, inputs, others, store, work, parts, watch)
        parts.add(alternatives=compared)
    return evidence


def _would_decide(parts: Known, verdict: Verdict, evidence: Evidence) -> tuple[str, ...]:
    """What evidence would decide the rules that stay open; of predictions alone nobody can say."""
    return () if parts.evidence is None else would_decide(parts.evidence, verdict.rules, evidence.findings)


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
    """Which evaluation of this model on other data, seeds or shadows this is, as far as the registry remembers."""
    remembered = ready.registry.attempts(ready.candidate)
    parts.references = draw(ready.plan, ready.task, ready.loaded, ready.models)
    number = attempt_number(remembered.attempts or (), ready.dataset.digest, parts.seed, parts.references)
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
    found = regression(
        approved,
        Subject(
            ready.candidate,
            ready.dataset,
            ready.dataset.people,
            ready.audit,
            ready.target,
            ready.classes,
            ready.form,
            ready.runtime,
        ),
        evidence.attacks,
        terms.attacks,
        parts.seed,
        work=work,
        key=terms.key,
        defences=ready.defences,
        declared_classes=config_of(request).output.classes or config_of(request).data.classes,
        logs=store_path(request) / "logs",
        estimand=evidence.estimand,
    )
    parts.add(regression=found)
    if found.note:
        parts.warn(f"baseline {found.reference}: {found.note}")
    return found


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
            gather(request, prepare(request, terms, work, parts, watch), store, parts, watch)
    finally:
        watch.close()
    return parts.trained or 0, parts.cached or 0
