"""The early-stopping benchmark: a defence is worth its cost only if stopping earlier does not do better.

Song & Mittal, USENIX Security 2021, section 5.2: the defended model is compared with the undefended one, stopped where
both are equally good on unseen records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.attacks import Attack
from privacy_gate.datamodel import Audit, Bools, Frontier, Measurement, Observations, Outputs, Scope, Stop, ThreatModel
from privacy_gate.errors import NotEvaluable
from privacy_gate.metrics import averaged, balanced_accuracy
from privacy_gate.observe import Answers, observe
from privacy_gate.pairs import alone, decisions, paired_difference
from privacy_gate.signals import CATALOG as SIGNALS

ALPHA = 0.05
BENCHMARK = ("correctness", "confidence", "entropy", "modified_entropy")
"""The attacks of the benchmark: those that need nothing but one model's answers."""


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """The undefended model at one moment of its training."""

    name: str
    outputs: Outputs  # [R, K]


def frontier(
    candidate: Observations,
    stages: Sequence[Stage],
    audit: Audit,
    seed: int,
    source: Literal["retraining", "staged", "checkpoints"],
    attacks: Sequence[str] = BENCHMARK,
) -> Frontier:
    """Where the candidate stands among the stages of the undefended model's training.

    candidate  the target's signals on the R records, as released
    One threshold for all classes, cross-fitted by person, on the same halves for all models. A stage that answers
    every record alike is left out, and noted. Raises NotEvaluable when no stage is left.
    """
    there = set(SIGNALS.names()) & set(candidate.target)
    able = [ATTACKS[id] for id in attacks if alone(ATTACKS[id]) and ATTACKS[id].requires <= there]
    notes: list[str] = []
    decided: list[Mapping[str, list[Bools]]] = []
    stops: list[Stop] = []
    for stage in stages:
        try:
            seen = observe(Answers(stage.outputs), audit, [attack.id for attack in able]).views[0].seen
        except NotEvaluable:
            notes.append(f"{stage.name} answers every record alike; left out")
            continue
        own = _decisions(able, seen, audit, seed)
        decided.append(own)
        stops.append(_stop(stage.name, own, seen, audit))
    if not stops:
        raise NotEvaluable("the undefended model has no stage that could be compared", "train it for longer")
    mine = _decisions(able, candidate, audit, seed)
    whole = _stop("the candidate", mine, candidate, audit)
    distances = [abs(stop.test_accuracy - whole.test_accuracy) for stop in stops]
    matched = int(np.argmin(distances))
    leak = max(whole.attacks, key=lambda name: whole.attacks[name].value)
    # The attack is the one that did best on the candidate, by luck perhaps, and there are several stops to find one in.
    level = ALPHA / (len(stops) * len(whole.attacks))
    dominated = [
        place
        for place, stop in enumerate(stops)
        if stop.test_accuracy >= whole.test_accuracy
        and stop.worst < whole.worst
        and _difference(mine[leak], decided[place][leak], audit).lower(level) > 0
    ]
    return Frontier(
        source=source,
        candidate=whole,
        stops=tuple(stops),
        matched=matched,
        differences={id: _difference(mine[id], decided[matched][id], audit) for id in mine},
        dominated_by=tuple(dominated),
        notes=tuple(notes),
    )


def _decisions(attacks: Sequence[Attack], seen: Observations, audit: Audit, seed: int) -> dict[str, list[Bools]]:
    """Attack -> decisions [R] per repeat, with one threshold for all classes."""
    found = {}
    for attack in attacks:
        cells = decisions(attack, seen, audit, seed)
        name = f"{attack.id}, {ThreatModel.KNOWN_SUBSET.value}, {Scope.GLOBAL.value}"
        found[attack.id] = cells[name] if attack.thresholded else next(iter(cells.values()))
    return found


def _stop(name: str, decided: Mapping[str, list[Bools]], seen: Observations, audit: Audit) -> Stop:
    correct = seen.target["correctness"] > 0
    rates: dict[str, Measurement] = {
        id: averaged([balanced_accuracy(d, audit.member, audit.persons) for d in repeats])
        for id, repeats in decided.items()
    }
    return Stop(name, float(correct[audit.member].mean()), float(correct[~audit.member].mean()), rates)


def _difference(first: Sequence[Bools], second: Sequence[Bools], audit: Audit) -> Measurement:
    pairs = zip(first, second, strict=True)
    return averaged([paired_difference(a, b, audit.member, audit.persons) for a, b in pairs])
