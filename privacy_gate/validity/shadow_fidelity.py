"""Shadows that behave unlike the target calibrate the attacks for another model."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import t as student

from privacy_gate.datamodel import Bools, Finding, Floats, Invalidates
from privacy_gate.validity import Circumstances, check
from privacy_gate.validity.bounds import Effect, clustered_variance, corrected_alpha, limit

POINTS = 0.03
SIZE = 0.10
FEW = 4
MEND = "train the shadows with the target's own settings and stopping rule"
# What a difference in one direction usually comes from.
LONGER = "they learn their records by heart where the target was stopped: give them its number of rounds or epochs"
SHORTER = "they are trained less than the target was: fewer rounds or epochs, other settings, or not all its columns"


def trained(c: Circumstances) -> Bools | None:
    """[S, R] who trained which shadow: the references, or models that set thresholds alone; None without shadows."""
    if c.plan is not None and not c.plan.by_lot:
        return c.plan.member[:, : len(c.audit.member)]
    return c.observations.reference_member


def _used(c: Circumstances, *, members: bool) -> Bools:
    """[S, R] records on which each shadow is compared with the target: those that it trained on, or others."""
    inside = trained(c)
    assert inside is not None
    if members:
        return inside
    # What was not drawn by lot holds out records of one side alone; of the other side nothing is held out.
    return ~inside if c.plan is None or c.plan.by_lot else ~inside & c.plan.pool[: len(c.audit.member)]


def accuracies(c: Circumstances, *, members: bool) -> tuple[float, float]:
    """Accuracy of the target and mean accuracy of the shadows, on members or on others; NaN where there are none."""
    assert c.shadow_correct is not None
    side = c.audit.member if members else ~c.audit.member
    used = _used(c, members=members)
    has = used.sum(axis=1) > 0
    if not side.any() or not has.any():
        return math.nan, math.nan
    per_shadow = (c.shadow_correct & used).sum(axis=1)[has] / used.sum(axis=1)[has]
    return float(c.target_correct[side].mean()), float(per_shadow.mean())


def difference(c: Circumstances, alpha: float, *, members: bool) -> tuple[float, float]:
    """(accuracy of the target minus that of the shadows, its one-sided margin at `alpha`), on members or on others.

    The shadows' accuracy is taken on records that were in (out of) their training sets. Its error has two parts that do
    not shrink together: the records that all shadows share, and the training of each shadow, known from their spread.
    NaN margins where there is nothing to compare.
    """
    assert c.shadow_correct is not None
    side = c.audit.member if members else ~c.audit.member
    used = _used(c, members=members)
    has = used.sum(axis=1) > 0
    seen = used.sum(axis=0) > 0
    if not side.any() or has.sum() < 2 or not seen.any():
        return math.nan, math.nan
    target = c.target_correct[side].astype(np.float64)
    per_shadow = (c.shadow_correct & used).sum(axis=1)[has] / used.sum(axis=1)[has]
    per_record: Floats = ((c.shadow_correct & used).sum(axis=0) / np.maximum(used.sum(axis=0), 1))[seen]
    variance = (
        clustered_variance(target, c.audit.persons[side])
        + clustered_variance(per_record, c.audit.persons[seen])
        + float(per_shadow.var(ddof=1)) / len(per_shadow)
    )
    margin = float(student.isf(alpha, len(per_shadow) - 1)) * math.sqrt(variance)
    return float(target.mean() - per_shadow.mean()), margin


@check(id="shadow_fidelity", title="shadows behave like the target", invalidates=Invalidates.PASS)
def shadow_fidelity(c: Circumstances) -> Finding:
    """Accuracy on training and on other records within 3 points of the target's, training size within 10 %."""
    name, takes = "shadow_fidelity", Invalidates.PASS
    if c.shadow_correct is None or trained(c) is None or len(c.shadow_correct) == 0:
        return Finding(name, "not_applicable", takes, None, "there are no shadows that answered the audited records")
    size = _size(c)
    # Ten folds of a number of records that is no multiple of ten are at the limit, but for rounding.
    if size is not None and abs(size - 1) > limit(c, "shadow_fidelity.size", SIZE) + 1e-9:
        reason = f"shadows were trained on {100 * size:.0f} % of the target's {c.train_size:,} records"
        if c.plan is not None and c.plan.sizes:
            reason += "; give models that were trained on nearly as many: of ten folds or more, or the latest version"
        else:
            reason += "; give as many records as the target had (or data.train_size, if it had more than are given)"
        return Finding(name, "fail", takes, size - 1, reason)
    most = limit(c, name, POINTS)
    # Four one-sided questions: on either kind of record the target may be better or worse.
    effects = [_effect(c, members=members) for members in (True, False)]
    known = [effect for effect in effects if not math.isnan(effect.value)]
    if not known:
        return Finding(name, "warn", takes, None, "fewer than two shadows: their behaviour cannot be compared")
    worst = max(known, key=lambda effect: (effect.low > most, effect.high))
    statuses = {effect.against(most) for effect in known}
    reason = "; ".join(
        _said(c, effect, members=members)
        for members, effect in zip((True, False), effects, strict=True)
        if not math.isnan(effect.value)
    )
    if "fail" in statuses:
        target, shadows = accuracies(c, members=True)
        # Only what they know by heart tells longer from shorter; on other records either may cost accuracy.
        proven = effects[0].against(most) == "fail"
        mend = (LONGER if shadows > target else SHORTER) if proven else MEND
        return Finding(name, "fail", takes, worst.value, f"{reason}; proven to be above {100 * most:g} points; {mend}")
    if len(c.shadow_correct) < FEW:
        return Finding(
            name,
            "warn",
            takes,
            worst.value,
            f"{reason}; {len(c.shadow_correct)} shadows are too few to tell (shadows.count)",
        )
    if "warn" in statuses:
        reason = f"{reason}; it may be more than {100 * most:g} points: more shadows would tell"
        return Finding(name, "warn", takes, worst.value, reason)
    return Finding(name, "pass", takes, worst.value, reason)


def _said(c: Circumstances, effect: Effect, *, members: bool) -> str:
    target, shadows = accuracies(c, members=members)
    return (
        f"on {'training' if members else 'other'} records the target is right for {100 * target:.1f} %, shadows for"
        f" {100 * shadows:.1f} %: {100 * effect.value:.1f} points apart (could be up to {100 * effect.high:.1f})"
    )


def _effect(c: Circumstances, *, members: bool) -> Effect:
    value, corrected = difference(c, corrected_alpha(c) / 4, members=members)
    _, plain = difference(c, c.alpha, members=members)
    return Effect(abs(value), abs(value) - corrected, abs(value) + plain)


def _size(c: Circumstances) -> float | None:
    """Training size of the shadows as a share of the target's, on average; None where it is not known.

    Of models that differ in size: 1 and the mean distance from it, so that one of half and one of twice the records do
    not stand for two of the same.
    """
    if c.plan is None or c.train_size <= 0 or len(c.plan.member) == 0:
        return None
    if c.plan.sizes:
        away = np.asarray(c.plan.sizes) / c.train_size - 1
        mean = float(np.abs(away).mean())
        return 1 + mean if away.mean() > 0 else 1 - mean
    if c.plan.kind == "loaded":
        return None
    return float(c.plan.member.sum(axis=1).mean()) / c.train_size
