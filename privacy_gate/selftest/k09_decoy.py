"""K-9: defences that hide confidence but not the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import AttackResult, Outputs
from privacy_gate.defences import CATALOG as DEFENCES
from privacy_gate.defences import Defences
from privacy_gate.errors import ExitCode
from privacy_gate.measure import measure
from privacy_gate.metrics import balanced_accuracy
from privacy_gate.observe import from_shadows, observe
from privacy_gate.policy import judge
from privacy_gate.selftest import Promise, evidence, mostly, near, policy, rarely, world
from privacy_gate.selftest.models import Models


@dataclass(frozen=True, slots=True)
class Noise:
    """The top class gets a random confidence: nothing is left but the answer itself."""

    seed: int

    def protect(self, outputs: Outputs) -> Outputs:
        """Probabilities [n, 2]; the same rows always get the same noise, so asking again does not help."""
        rng = np.random.default_rng([self.seed, len(outputs.values)])
        top = outputs.values.argmax(axis=1)
        sure = 0.5 + 0.5 * rng.random(len(top))
        values = np.where(np.arange(2) == top[:, None], sure[:, None], 1 - sure[:, None])
        return Outputs(values, "probabilities")


def _defences(seed: int) -> Mapping[str, Defences]:
    coarse = DEFENCES["output_coarsening"]
    return {
        "noise": Defences((("noise", Noise(seed)),)),
        "rounding": Defences((("rounding", coarse.configure({"decimals": 1})),)),
        "top_1": Defences((("top_1", coarse.configure({"top_k": 1})),)),
        "temperature": Defences((("temperature", coarse.configure({"temperature": 0.1})),)),
    }


_ATTACKS = ("correctness", "confidence", "modified_entropy", "lira")


@world(id="K-09", quick=20)
def decoy(seed: int, replicates: int) -> Iterator[Promise]:
    """K-9: a defence that keeps the top class keeps its leak; the gate finds at least what correctness finds."""
    limit, leaky = policy({"PG101": 0.6}), Models(500, leak=2.5, ease=0.0)
    for name in _defences(0):
        differences, short, failed = [], [], []
        for r in range(replicates):
            drawn = leaky.draw(np.random.default_rng([seed, 19, r]))
            answers = from_shadows(drawn.target, drawn.shadows, drawn.plan, drawn.audit.labels)
            views = observe(answers, drawn.audit, _ATTACKS, _defences(r)[name]).views
            outcomes = [o for view in views for id in _ATTACKS for o in measure(ATTACKS[id], view, drawn.audit, r)]
            found = {o.id: o.accuracy.value for o in outcomes if isinstance(o, AttackResult) and o.threshold is None}
            best = max(o.accuracy.value for o in outcomes if isinstance(o, AttackResult))
            right = drawn.target.values.argmax(axis=1) == drawn.audit.labels
            plain = balanced_accuracy(right, drawn.audit.member, drawn.audit.persons).value
            differences.append(found["correctness"] - plain)
            short.append(best < plain)
            failed.append(judge(limit, evidence(outcomes, drawn.audit, r)).exit_code == ExitCode.VIOLATED)
        said = f"K-9: a leak of the top class behind {name.replace('_', ' ')}"
        # Rounding can make two classes equal: a record in twenty or so, on either side.
        yield near(f"K-9.{name}.same", said, "correctness finds what it finds without", differences, 0.0, 0.01)
        yield rarely(f"K-9.{name}.below", said, "the gate finds less than correctness", short, 0.0, 0.0)
        yield mostly(f"K-9.{name}.fail", said, "it fails a limit of 0.60", failed)
