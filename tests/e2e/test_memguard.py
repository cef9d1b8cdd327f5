"""MemGuard on Location30, with shadows of our own: the attack it was made against is blind, the others are not.

Jia et al., CCS 2019, and what Song & Mittal, USENIX Security 2021, section 4.2 found when they looked again.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import AttackResult, Audit, Outputs
from privacy_gate.defences import configure
from privacy_gate.measure import View, measure
from privacy_gate.observe import from_shadows, observe
from privacy_gate.request import TorchTraining
from privacy_gate.shadows.plan import balanced
from privacy_gate.shadows.recipes.torch_module import fit
from privacy_gate.shadows.train import numeric_path

pytestmark = [pytest.mark.reference, pytest.mark.slow]

FACTORY = Path(__file__).parents[2] / "examples" / "location30" / "model.py"
TRAINING = TorchTraining(learning_rate=3e-3, epochs=100, batch_size=64)  # what the example's script does
SHADOWS = 2
METRIC = ("confidence", "modified_entropy")
ALL = ("correctness", "salem_nn", *METRIC)


Accuracy = Mapping[str, Mapping[str, float]]
"""Who attacks -> attack -> balanced accuracy of its best cell, which is what the gate judges."""


def best(attack: str, view: View, audit: Audit) -> float:
    results = [r for r in measure(ATTACKS[attack], view, audit, 0) if isinstance(r, AttackResult)]
    return max((float(r.accuracy.value) for r in results), default=np.nan)


@pytest.fixture(scope="module")
def accuracy(reference_data: Path) -> Accuracy:
    """Of `adaptive` attackers, `naive` ones (shadows without MemGuard), and those of the `undefended` target.

    Target and shadows are trained alike. The defender's own records are those that the paper's authors gave to theirs.
    """
    import torch

    with np.load(reference_data / "location30" / "records.npz") as data:
        x, y, order = data["x"].astype(np.float32), data["y"].astype(np.int64), data["order"]
    audited, reserve = np.concatenate([order[:1000], order[2000:3000]]), order[1000:2000]
    everyone, member = np.arange(2000), np.arange(2000) < 1000
    plan = balanced(everyone, member, ~member, np.zeros(2000, dtype=bool), SHADOWS, 1000, 0)
    spec = importlib.util.spec_from_file_location("location30_model", FACTORY)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    features, labels = torch.from_numpy(x), torch.from_numpy(y)

    def answers(rows: np.ndarray, seed: int) -> tuple[Outputs, Outputs]:
        torch.manual_seed(seed)
        module = fit(example.classifier(), features[rows], labels[rows], TRAINING, torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            return tuple(Outputs(module(features[asked]).numpy().copy(), "logits") for asked in (audited, reserve))  # type: ignore[return-value]

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(numeric_path(tuned=True)["matmul"])
    try:
        target, beside = answers(audited[member], 1)
        shadows = [answers(audited[inside], int(seed)) for inside, seed in zip(plan.member, plan.seeds, strict=True)]
    finally:
        torch.set_float32_matmul_precision(precision)
    audit = Audit(member, y[audited], everyone, tuple(map(str, range(30))))
    given = from_shadows(target, [s for s, _ in shadows], plan, audit.labels)
    given = replace(given, beside=beside, beside_shadows=tuple(b for _, b in shadows))
    adaptive, naive = observe(given, audit, ALL, configure({"memguard": {}})).views
    (undefended,) = observe(given, audit, ALL).views
    views = {"adaptive": adaptive, "naive": naive, "undefended": undefended}
    return {name: {attack: best(attack, view, audit) for attack in ALL} for name, view in views.items()}


def test_the_attack_that_it_defends_against_is_blind(accuracy: Accuracy) -> None:
    assert accuracy["undefended"]["salem_nn"] > 0.75
    assert accuracy["naive"]["salem_nn"] < 0.56


def test_correctness_does_not_move(accuracy: Accuracy) -> None:
    assert accuracy["adaptive"]["correctness"] == accuracy["undefended"]["correctness"] >= 0.65


@pytest.mark.parametrize("attack", METRIC)
def test_metric_attacks_that_know_of_it_see_the_leak(accuracy: Accuracy, attack: str) -> None:
    assert 0.65 <= accuracy["adaptive"][attack] < accuracy["undefended"][attack]


def test_a_tool_with_that_one_attack_would_have_let_it_pass(accuracy: Accuracy) -> None:
    """The worst over the families is what counts."""
    assert max(accuracy["adaptive"].values()) - accuracy["naive"]["salem_nn"] > 0.1
