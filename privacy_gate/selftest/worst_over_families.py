"""Models in disguise: each hides from most families of attacks, none from all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import Audit, Bools, Floats, Outputs
from privacy_gate.errors import ExitCode
from privacy_gate.measure import measure
from privacy_gate.observe import Answers, from_shadows, observe
from privacy_gate.policy import judge
from privacy_gate.selftest import Promise, Rng, answer_key, evidence, halves, mostly, policy, rarely, world
from privacy_gate.selftest.models import balanced

SWIFT = ("correctness", "modified_entropy", "population", "lira", "noise_robustness")
"""One attack of every family that trains nothing: those that do see what these see here, and take their time."""

LIMITS = {"PG101": 0.60, "PG103": 0.05}  # of the profile `standard`
SHADOWS = 4
HARD = 0.3  # of all records are answered wrongly by whoever has not memorised them

Model = Callable[[Bools], tuple[Floats, Floats]]
"""Who was trained on -> how far the true class is ahead [2 n], and how steady it is when records are changed [2 n]."""


def memoriser(rng: Rng, n: int, share: float, *, decoy: bool) -> Model:
    """Of the hard records it was trained on, that share is answered rightly, as surely as the wrong answer had been.

    Changed copies of a record are strangers to it. decoy: how sure it says it is, is noise; the answer itself is none.
    """
    margin = np.where(rng.random(2 * n) < HARD, -1.0, 1.0) * rng.exponential(3.0, 2 * n)
    kept = rng.random(2 * n) < share
    copies = 1 / (1 + np.exp(-margin))

    def model(trained: Bools) -> tuple[Floats, Floats]:
        own = np.where(trained & kept, np.abs(margin), margin) + rng.normal(0.0, 0.1, 2 * n)
        told = np.sign(own) * rng.exponential(3.0, 2 * n) if decoy else own
        return np.asarray(told), np.asarray(((own > 0) + copies) / 2)

    return model


def one_hot(rng: Rng, n: int) -> Model:
    """Every record gets its class and nothing else is told; so do 12 of 24 changed copies, of a training record 18."""

    def model(trained: Bools) -> tuple[Floats, Floats]:
        right = rng.binomial(24, np.where(trained, 0.75, 0.5))
        return np.full(2 * n, 1000.0), np.asarray((1 + right / 24) / 2)

    return model


def few_memorised(rng: Rng) -> tuple[Answers, Audit]:
    """One member in eight is memorised: 12 % named where 1 % of the others are, an accuracy of 0.56."""
    return _answers(rng, 1000, memoriser(rng, 1000, 0.4, decoy=False))


def decoy(rng: Rng) -> tuple[Answers, Audit]:
    """Members are all right, others 70 %: an accuracy of 0.65, four standard deviations above what is to be proven."""
    return _answers(rng, 800, memoriser(rng, 800, 1.0, decoy=True))


def label_only(rng: Rng) -> tuple[Answers, Audit]:
    """Two binomials of 24 draws, 0.5 and 0.75: an accuracy of 0.90."""
    return _answers(rng, 150, one_hot(rng, 150))


DISGUISES = {"few": few_memorised, "decoy": decoy, "label_only": label_only}


def _answers(rng: Rng, n: int, model: Model) -> tuple[Answers, Audit]:
    labels = np.arange(2 * n) % 2
    audit, plan = replace(answer_key(halves(n)), labels=labels, classes=("no", "yes")), balanced(rng, 2 * n, n, SHADOWS)

    def asked(trained: Bools) -> tuple[Outputs, Mapping[str, Floats]]:
        margin, steady = model(trained)
        signed = np.where(labels == 1, margin, -margin)
        return Outputs(np.stack((-signed / 2, signed / 2), axis=1), "logits"), {"noise_robustness": steady}

    (target, probes), shadows = asked(audit.member), [asked(inside) for inside in plan.member]
    answers = from_shadows(target, [o for o, _ in shadows], plan, labels, probes=[p for _, p in shadows])
    return replace(answers, probes=probes), audit


def refused(answers: Answers, audit: Audit, seed: int) -> Mapping[str, bool]:
    """Family -> whether its attacks alone refuse the model; "" for all of them together."""
    view = observe(answers, audit, SWIFT, seed=seed).views[0]
    found = {id: measure(ATTACKS[id], view, audit, seed) for id in SWIFT}
    asked = {"": SWIFT, **{ATTACKS[id].family: (id,) for id in SWIFT}}
    return {
        family: judge(policy(LIMITS), evidence([o for id in ids for o in found[id]], audit, seed)).exit_code
        == ExitCode.VIOLATED
        for family, ids in asked.items()
    }


@world(id="families", quick=10)
def worst_over_families(seed: int, replicates: int) -> Iterator[Promise]:
    """Three disguises: the worst over the families refuses each, and no family alone all three."""
    told: dict[str, list[Mapping[str, bool]]] = {}
    for place, (name, draw) in enumerate(DISGUISES.items()):
        rngs = [np.random.default_rng([seed, 47, place, r]) for r in range(replicates)]
        told[name] = [refused(*draw(rng), r) for r, rng in enumerate(rngs)]
        said = {"few": "few records memorised", "decoy": "a confidence that is noise", "label_only": "one-hot answers"}
        failed = [of[""] for of in told[name]]
        yield mostly(f"families.{name}.fail", said[name], "the worst over five families fails it", failed)
    for family in dict.fromkeys(ATTACKS[id].family for id in SWIFT):
        all_three = [all(of[family] for of in each) for each in zip(*told.values(), strict=True)]
        yield rarely(f"families.{family}.alone", "the three of them", f"the family {family} alone fails all", all_three)
