"""Circumstances built by hand: clean by default, with one knob per thing that can be wrong."""

from dataclasses import replace

import numpy as np
from scipy.special import logit

from privacy_gate.datamodel import Audit, Observations, Scope, ShadowPlan, ThreatModel
from privacy_gate.policy.examples import result
from privacy_gate.validity import Circumstances


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
    )
    return replace(clean, **changes)


def without_shadows(**changes):
    """Predictions judged alone: nothing but the target's outputs."""
    bare = circumstances(n=1000, shadows=0)
    attacks = (replace(result("confidence"), threat_model=ThreatModel.KNOWN_SUBSET, threshold=Scope.GLOBAL),)
    return replace(bare, plan=None, attacks=attacks, **changes)
