"""What several worlds share: simulated models with shadows, and the street from their answers to the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from privacy_gate.datamodel import Audit, Bools, Outputs, ShadowPlan, Verdict
from privacy_gate.defences import NOTHING, Defences
from privacy_gate.evaluate import Evaluation, evaluate
from privacy_gate.observe import from_shadows, observe
from privacy_gate.policy import Policy, judge, suite
from privacy_gate.selftest import Rng, halves

SHADOWS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """Answers of target and shadows, which record trained which shadow, and the answer key."""

    target: Outputs
    shadows: tuple[Outputs, ...]
    plan: ShadowPlan
    audit: Audit


def balanced(rng: Rng, records: int, train_size: int, shadows: int = SHADOWS) -> ShadowPlan:
    """Every record trains half of the shadows."""
    inside = np.argsort(rng.random((shadows, records)), axis=0) < shadows // 2
    everyone = np.ones(records, dtype=np.bool_)
    return ShadowPlan("balanced", np.asarray(inside), everyone, np.arange(shadows), train_size)


@dataclass(frozen=True, slots=True, eq=False)
class Models:
    """Every record has a difficulty of its own, and being trained on raises the logit of its true class.

    n      members, and as many non-members
    leak   added to the true class's logit of training records
    shift  members are easier by this, whoever was trained on them
    ease   mean logit of records that nobody was trained on
    """

    n: int
    leak: float
    shift: float = 0.0
    ease: float = 1.5

    def draw(self, rng: Rng) -> Answered:
        """One target and its shadows, of two classes."""
        member = halves(self.n)
        labels = rng.integers(0, 2, 2 * self.n)
        ease = rng.normal(self.ease, 1.0, 2 * self.n) + self.shift * member
        plan = balanced(rng, 2 * self.n, self.n)
        audit = Audit(member, labels, np.arange(2 * self.n), ("no", "yes"))

        def answer(trained: Bools) -> Outputs:
            margin = ease + rng.normal(0.0, 1.0, 2 * self.n) + self.leak * trained
            signed = np.where(labels == 1, margin, -margin)
            return Outputs(np.stack((-signed / 2, signed / 2), axis=1), "logits")

        return Answered(answer(member), tuple(answer(mask) for mask in plan.member), plan, audit)


def walk(
    drawn: Answered,
    rules: Policy,
    seed: int,
    attacks: Sequence[str] | None = None,
    defences: Defences = NOTHING,
) -> tuple[Verdict, Evaluation]:
    """The street from the models' answers to the verdict, with the suite `full` unless told otherwise."""
    names = suite("full") if attacks is None else attacks
    answers = from_shadows(drawn.target, drawn.shadows, drawn.plan, drawn.audit.labels)
    observed = observe(answers, drawn.audit, names, defences)
    done = evaluate(
        observed, drawn.audit, names, seed, candidates=len(drawn.audit.labels), plan=drawn.plan, policy=rules
    )
    return judge(rules, done.evidence), done
