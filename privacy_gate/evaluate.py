"""What was observed, measured: attacks, risk, validity. Pure, and the same for models and for predictions alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from privacy_gate import metrics
from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.causes import CATALOG as CAUSES
from privacy_gate.causes import CauseInput
from privacy_gate.causes.stability import from_some_references
from privacy_gate.datamodel import (
    AttackOutcome,
    AttackResult,
    Audit,
    Cause,
    Description,
    Estimand,
    Evidence,
    Finding,
    Floats,
    Invalidates,
    RiskScores,
    ShadowPlan,
)
from privacy_gate.defences import NOTHING, Declared, Defences
from privacy_gate.errors import GateError, NotEvaluable
from privacy_gate.measure import measure
from privacy_gate.observe import Observed
from privacy_gate.policy import Policy
from privacy_gate.procedure import procedure
from privacy_gate.risk import CATALOG as ESTIMATORS
from privacy_gate.risk import RiskInput
from privacy_gate.risk.summary import summarise
from privacy_gate.slices import left_out, slices
from privacy_gate.validity import CATALOG as CHECKS
from privacy_gate.validity import Circumstances, Inputs, ValidityCheck

JUDGED_ESTIMATOR = "calibrated"
VALIDITY_ALPHA = 0.05
HIGH_SCORE = 0.8  # four to one odds
SHOWN_SIGNALS = {"logit confidence": "logit_confidence", "modified entropy": "modified_entropy"}


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What the policy judges, and what only the report shows.

    curves      attack id -> (fpr, tpr) of its first ranking
    shown_risk  estimators that no verdict rests on
    signals     title -> [R] of the target
    warnings    what could not be computed, for people
    causes      why records are at risk
    notes       how the risk was estimated
    """

    evidence: Evidence
    curves: Mapping[str, tuple[Floats, Floats]]
    shown_risk: tuple[RiskScores, ...]
    signals: Mapping[str, Floats]
    warnings: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()
    notes: tuple[str, ...] = ()


def evaluate(
    observed: Observed,
    audit: Audit,
    attacks: Sequence[str],
    seed: int,
    *,
    candidates: int,
    plan: ShadowPlan | None = None,
    duplicates: int = 0,
    deterministic: bool = True,
    declared: Declared | None = None,
    defences: Defences = NOTHING,
    train_size: int | None = None,
    model: Description | None = None,
    policy: Policy | None = None,
    inputs: Inputs | None = None,
) -> Evaluation:
    """Every attack under every view, every estimator, every validity check; see `validity.Circumstances`."""
    estimand = policy.estimand if policy is not None else Estimand.ARTEFACT
    view = observed.views[0]
    outcomes = _measured(observed, audit, attacks, seed, census=estimand is Estimand.CENSUS)
    judged_outcomes = outcomes
    if estimand is Estimand.PROCEDURE:
        judged_outcomes = tuple(procedure([ATTACKS[name] for name in attacks], view, audit, seed, slices))
    trained_on = int(audit.member.sum()) if train_size is None else train_size
    warnings: list[str] = []
    notes: list[str] = []
    risks = tuple(_risks(observed, audit, outcomes, seed, warnings, notes))
    judged = next((risk for risk in risks if risk.estimator == JUDGED_ESTIMATOR), None)
    circumstances = Circumstances(
        audit=audit,
        observations=view.seen,
        plan=plan,
        attacks=outcomes,
        duplicates=duplicates,
        candidates=candidates,
        deterministic=deterministic,
        saturated=observed.saturated,
        declared_defence=None if declared is None else declared.name,
        defence=defences.name,
        declared_digest="" if declared is None else declared.digest,
        defence_digest=defences.digest,
        target_correct=observed.target_correct,
        shadow_correct=observed.shadow_correct,
        train_size=trained_on,
        model=model,
        seed=seed,
        alpha=VALIDITY_ALPHA,
        limits=policy.validity_limits if policy is not None else {},
        view=view,
        suite=tuple(attacks),
        policy=policy,
        risk=judged,
        inputs=inputs,
    )
    looked_at = CauseInput(
        audit=audit,
        view=view,
        attacks=outcomes,
        risk=judged,
        embedding=observed.embedding,
        target_correct=observed.target_correct,
        shadow_correct=observed.shadow_correct,
        score=HIGH_SCORE,
        seed=seed,
    )
    causes = tuple(_causes(looked_at, warnings))
    persons = [len(np.unique(audit.persons[side])) for side in (audit.member, ~audit.member)]
    evidence = Evidence(
        attacks=judged_outcomes,
        risk=judged,
        findings=tuple(_finding(check, circumstances) for check in CHECKS),
        members=int(audit.member.sum()),
        nonmembers=int((~audit.member).sum()),
        member_persons=persons[0],
        nonmember_persons=persons[1],
        seed=seed,
        estimand=estimand,
        train_size=trained_on,
        description=model,
        left_out=tuple((part.by, part.value) for part in left_out(audit, view.seen)),
    )
    return Evaluation(
        evidence=evidence,
        curves=_curves(outcomes, audit),
        shown_risk=tuple(risk for risk in risks if risk is not judged),
        signals={title: view.seen.target[name] for title, name in SHOWN_SIGNALS.items() if name in view.seen.target},
        warnings=tuple(warnings),
        causes=causes,
        notes=tuple(notes),
    )


def _measured(
    observed: Observed, audit: Audit, attacks: Sequence[str], seed: int, *, census: bool
) -> tuple[AttackOutcome, ...]:
    """Every attack on the audited model, under every view, as a whole and in every slice."""
    parts = slices(audit, observed.views[0].seen)
    # Attacks compute many small products: threads would wait for each other longer than they work.
    with threadpool_limits(limits=1):
        return tuple(
            outcome
            for view in observed.views
            for name in attacks
            for outcome in measure(ATTACKS[name], view, audit, seed, slices=parts, census=census)
        )


def _causes(given: CauseInput, warnings: list[str]) -> Iterator[Cause]:
    for finder in CAUSES:
        try:
            found = finder.find(given)
        except (GateError, ArithmeticError, ValueError, LookupError) as error:
            # An explanation that breaks takes nothing from the verdict; it must not be missed in silence either.
            warnings.append(f"cause {finder.id} could not be looked for ({type(error).__name__})")
        else:
            if found is not None:
                yield found


def _risks(
    observed: Observed,
    audit: Audit,
    outcomes: Sequence[AttackOutcome],
    seed: int,
    warnings: list[str],
    notes: list[str],
) -> Iterator[RiskScores]:
    view = observed.views[0]
    scores = {o.id: o.scores for o in outcomes if isinstance(o, AttackResult) and o.adaptive}
    rescore = {"lira": from_some_references("lira", view.seen)} if "lira" in scores and view.seen.shadows else {}
    given = RiskInput(target=view.seen, pool=view.pool, scores=scores, audit=audit, seed=seed, rescore=rescore)
    for estimator in ESTIMATORS:
        if view.pool is not None or not estimator.needs_pool:
            try:
                found = estimator.assess(given)
                scores_of = summarise(estimator.id, found.scores, audit, seed, found.interval, found.rankings)
            except NotEvaluable as error:
                warnings.append(f"the risk estimator gives no scores: {error.what}")
            except (GateError, ArithmeticError, ValueError, LookupError) as error:
                # Without its scores the rules about risk stay undecided; what other rules have proven stands.
                warnings.append(f"risk estimator {estimator.id} failed ({type(error).__name__}): it gives no scores")
            else:
                notes += [f"{estimator.id}: {note}" for note in found.notes]
                yield scores_of


def _finding(check: ValidityCheck, circumstances: Circumstances) -> Finding:
    try:
        with threadpool_limits(limits=1):  # controls run attacks
            return check.run(circumstances)
    except (GateError, ArithmeticError, ValueError, LookupError) as error:
        # A check that broke has not cleared the evidence; nor has it shown that a proven violation is none.
        reason = f"the check itself failed ({type(error).__name__})"
        return Finding(check.id, "fail", Invalidates.PASS, None, reason)


def _curves(outcomes: Sequence[AttackOutcome], audit: Audit) -> dict[str, tuple[Floats, Floats]]:
    curves: dict[str, tuple[Floats, Floats]] = {}
    for outcome in outcomes:
        if isinstance(outcome, AttackResult) and outcome.auc is not None and outcome.id not in curves:
            curves[outcome.id] = metrics.roc(outcome.scores, audit.member)
    return curves
