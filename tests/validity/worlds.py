"""Circumstances built by hand: clean by default, with one knob per thing that can be wrong."""

from dataclasses import replace

import numpy as np
from scipy.special import logit

from privacy_gate import metrics
from privacy_gate.datamodel import (
    Audit,
    HighRisk,
    Observations,
    Outputs,
    RiskScores,
    Scope,
    ShadowPlan,
    ThreatModel,
)
from privacy_gate.evaluate import evaluate
from privacy_gate.inputs import look
from privacy_gate.measure import View
from privacy_gate.observe import from_shadows, observe
from privacy_gate.policy import resolve, suite
from privacy_gate.policy.examples import result
from privacy_gate.validity import Circumstances, Inputs

STANDARD = resolve("standard")
REQUIRED = ("correctness", "confidence", "entropy", "modified_entropy", "lira", "rmia")  # by `standard`


def policy(*rules):
    """The standard policy with these rules only."""
    return replace(STANDARD, rules=tuple(STANDARD.rule(id) for id in rules))


def risk_scores(member, persons, rng):
    """Scores that are right: the posterior of a weak Gaussian leak."""
    seen = rng.normal(size=len(member)) + 0.5 * member
    scores = 1 / (1 + np.exp(-(0.5 * seen - 0.125)))
    counts = [int((side & (scores >= 0.8)).sum()) for side in (member, ~member)]
    sizes = [len(np.unique(persons[side])) for side in (member, ~member)]
    numbers = (counts[0], sizes[0], counts[1], sizes[1])
    high = HighRisk(0.8, counts[0], counts[1], metrics.share_excess(*numbers), metrics.precision(*numbers))
    return RiskScores("calibrated", scores, (high,), {})


def blind_inputs(member, persons, rng):
    """What a classifier finds where there is nothing to find, and no near copies."""
    return Inputs(rng.normal(size=len(member)), member, persons, near=0, expected=0.0, compared=5000, note="bits")


def circumstances(
    *,
    n=8000,
    classes=4,
    shadows=16,
    shift=0.0,
    target_accuracy=(0.95, 0.85),
    shadow_accuracy=(0.95, 0.85),
    label_shift=0.0,
    records_per_person=1,
    size=1.0,
    lot=0,
    seed=0,
    **changes,
):
    """n members and n non-members; shadows are balanced, and answer with a record's difficulty plus noise.

    shift             added to the confidence of every member by models that never saw it: members are easier
    target_accuracy   on members and on non-members; `shadow_accuracy` on records in and out
    label_shift       share of members moved to class 0
    size              training size of the shadows as a share of the target's
    lot               shadows that a member is in beyond the half that everybody is in: not drawn by lot
    """
    rng = np.random.default_rng(seed)
    member = np.arange(2 * n) < n
    persons = np.arange(2 * n) // records_per_person
    labels = rng.integers(0, classes, 2 * n)[persons * records_per_person]
    labels[member & (rng.random(2 * n) < label_shift)] = 0
    # Each record is in half of the shadows, like in a balanced plan; all records of a person are, or none.
    inside = (rng.random((shadows, persons[-1] + 1)).argsort(axis=0)[:, persons]) < shadows // 2 + lot * member
    difficulty = rng.normal(size=2 * n)
    confidence = difficulty + 0.5 * rng.normal(size=(shadows, 2 * n)) + 1.0 * inside + shift * member

    def correct(sides, accuracy):
        return rng.random(sides.shape) < np.where(sides, *accuracy)

    audit = Audit(member, labels, persons, tuple(map(str, range(classes))))
    observations = Observations(
        target={"logit_confidence": difficulty + logit(0.7) * member},
        labels=labels,
        known=np.full(2 * n, -1, dtype=np.int8),
        persons=persons,
        classes=classes,
        references={"logit_confidence": confidence} if shadows else {},
        reference_member=inside if shadows else None,
    )
    plan = ShadowPlan(
        "balanced",
        inside,
        np.ones(2 * n, dtype=np.bool_),
        np.arange(shadows),
        round(inside.sum() / max(shadows, 1) / size),
    )
    others = np.random.default_rng([seed, 1])  # a stream of its own: what is drawn above stays as it was
    clean = Circumstances(
        audit=audit,
        observations=observations,
        plan=plan,
        attacks=(result("confidence"), result("lira")),
        duplicates=0,
        candidates=2 * n,
        deterministic=True,
        saturated=0.0,
        declared_defence=None,
        defence="",
        target_correct=correct(member, target_accuracy),
        shadow_correct=correct(inside, shadow_accuracy) if shadows else None,
        train_size=plan.train_size,
        model=None,
        seed=seed,
        alpha=0.05,
        limits={},
        view=View(observations, None),
        suite=("confidence",),
        policy=policy("PG101", "PG102", "PG103", "PG201"),
        risk=risk_scores(member, persons, others),
        inputs=blind_inputs(member, persons, others),
    )
    return replace(clean, **changes)


def without_shadows(**changes):
    """Predictions judged alone: nothing but the target's outputs."""
    bare = circumstances(n=1000, shadows=0)
    attacks = (replace(result("confidence"), threat_model=ThreatModel.KNOWN_SUBSET, threshold=Scope.GLOBAL),)
    return replace(bare, plan=None, attacks=attacks, inputs=None, **changes)


# --- the whole street -----------------------------------------------------------------------------------------------


def findings(
    *,
    seed,
    n=1000,
    shadows=8,
    leak=0.0,
    shift=0.0,
    input_shift=0.0,
    policy=STANDARD,
    look_at_inputs=True,
    attacks=None,
):
    """What all checks say of a simulated model with features, and the evidence: n members, n non-members.

    leak         added to the true class's logit of training records
    shift        members are easier by this, whoever was trained on them
    input_shift  added to two of the ten columns of every member
    attacks      default: the suite's
    """
    rng = np.random.default_rng([41, seed])
    records = 2 * n
    member = np.arange(records) < n
    labels = rng.integers(0, 2, records)
    features = rng.normal(size=(records, 10))
    features[member, :2] += input_shift
    ease = rng.normal(1.5, 1.0, records) + shift * member
    inside = np.argsort(rng.random((shadows, records)), axis=0) < shadows // 2

    def answer(trained):
        margin = ease + rng.normal(0.0, 1.0, records) + leak * trained
        signed = np.where(labels == 1, margin, -margin)
        return Outputs(np.stack((-signed / 2, signed / 2), axis=1), "logits")

    audit = Audit(member, labels, np.arange(records), ("no", "yes"))
    plan = ShadowPlan("balanced", inside, np.ones(records, dtype=np.bool_), np.arange(shadows), n)
    target = answer(member)
    attacks = attacks or suite("full" if shadows else "fast")
    if shadows:
        answers = from_shadows(target, tuple(answer(mask) for mask in inside), plan, labels)
    else:
        answers = from_shadows(target, (), replace(plan, member=inside[:0], seeds=np.arange(0)), labels)
    inputs = look(features, labels, member, audit.persons, seed) if look_at_inputs else None
    return evaluate(
        observe(answers, audit, attacks),
        audit,
        attacks,
        seed,
        candidates=records,
        plan=plan if shadows else None,
        train_size=n,
        policy=policy,
        inputs=inputs,
    ).evidence
