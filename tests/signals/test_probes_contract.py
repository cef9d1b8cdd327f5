"""What every probe owes: finite numbers that depend on the model and the record, or a reason why there are none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import Outputs
from privacy_gate.errors import NotEvaluable
from privacy_gate.features import is_frame, take
from privacy_gate.signals import PROBES, Probe, misfit

SEED, CLASSES, RECORDS = 7, 3, 30


@dataclass
class Open:
    """A torch module: classes, answers and weights."""

    net: torch.nn.Module
    classes: int = CLASSES

    def answers(self, features):
        dtype = next(self.net.parameters()).dtype
        with torch.no_grad():
            return Outputs(self.net(torch.as_tensor(np.array(features)).to(dtype)).double().numpy(), "logits")

    def module(self):
        return self.net.eval()


@dataclass
class Closed:
    """A function of a typed frame; there are no weights."""

    classes: int = CLASSES

    def answers(self, features):
        city = features["city"].astype(object).map({"a": 1.0, "b": -1.0, "c": 0.0}).to_numpy(np.float64)
        first, second = features["x"].to_numpy(np.float64), features["y"].to_numpy(np.float64)
        return Outputs(np.stack([first + city, second / 20 - city, first * second / 40], axis=1), "logits")

    def module(self):
        raise NotEvaluable("this model has no weights", "probe a torch module")


@dataclass(frozen=True, eq=False)
class Case:
    access: Any
    features: Any
    labels: Any


def case_of(kind: str) -> Case:
    rng = np.random.default_rng(SEED)
    torch.manual_seed(SEED)
    if kind == "frame":
        features = pd.DataFrame(
            {
                "x": rng.normal(size=RECORDS),
                "y": rng.integers(0, 60, size=RECORDS),
                "city": pd.Categorical(rng.choice(["a", "b", "c"], size=RECORDS)),
            }
        )
        access: Any = Closed()
    elif kind == "array":
        features = rng.normal(size=(RECORDS, 4))
        access = Open(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, CLASSES)).double())
    else:
        features = rng.normal(size=(RECORDS, 1, 8, 8))
        layers = [torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, CLASSES)]
        access = Open(torch.nn.Sequential(*layers).double())
    labels = access.answers(features).values.argmax(axis=1)
    labels = np.where(np.arange(RECORDS) % 5 == 0, (labels + 1) % CLASSES, labels)
    return Case(access, features, labels)


CASES = {kind: case_of(kind) for kind in ("array", "frame", "images")}
every_probe = pytest.mark.parametrize("probe", list(PROBES), ids=PROBES.names())


def ask(probe: Probe, case: Case, seed: int = SEED):
    """What the probe finds, or its reason for finding nothing."""
    try:
        return probe.compute(case.access, case.features, case.labels, seed)
    except NotEvaluable as error:
        return error.what


@cache
def known(name: str, kind: str):
    """The same, found once for all tests."""
    found = ask(PROBES[name], CASES[kind])
    if not isinstance(found, str):
        found.flags.writeable = False
    return found


def fits(probe: Probe, kinds=("array", "frame", "images")):
    """The kinds of records that the probe serves; every test runs over them."""
    return [kind for kind in kinds if not isinstance(known(probe.name, kind), str)]


def copy_of(features):
    return features.copy() if not is_frame(features) else features.copy(deep=True)


def same(left, right) -> bool:
    if is_frame(left):
        return bool(left.equals(right) and (left.dtypes == right.dtypes).all())
    return bool(np.array_equal(left, right) and left.dtype == right.dtype)


def test_the_catalog_is_found():
    assert {"noise_robustness", "augmentation_robustness", "boundary_distance"} <= set(PROBES.names())


@every_probe
def test_each_probe_fits_something_and_says_why_not_the_rest(probe: Probe):
    assert fits(probe)
    for kind in CASES:
        found = known(probe.name, kind)
        assert not isinstance(found, str) or len(found.split()) > 3, "a reason is a sentence"


@every_probe
def test_finite_numbers_of_the_declared_shape(probe: Probe):
    for kind in fits(probe):
        values = known(probe.name, kind)
        assert values.dtype == np.float64
        assert values.shape[:1] == (RECORDS,)
        assert values.ndim == (2 if probe.vector else 1)
        assert np.isfinite(values).all()
        assert len(np.unique(values, axis=0)) > 1


@every_probe
def test_the_seed_decides_and_nothing_is_changed(probe: Probe):
    """Twice the same to the bit, whatever the global generators did; read-only arrays will do, and stay as they are."""
    for kind in fits(probe):
        case = CASES[kind]
        features, labels = copy_of(case.features), case.labels.copy()
        if not is_frame(features):
            features.flags.writeable = False
        torch.manual_seed(1)
        np.testing.assert_array_equal(ask(probe, Case(case.access, features, labels)), known(probe.name, kind))
        assert same(features, case.features)
        np.testing.assert_array_equal(labels, case.labels)


@every_probe
def test_the_order_of_records_does_not_matter(probe: Probe):
    """Members come first on file: a number that depended on the row would tell who they are."""
    order = np.random.default_rng(SEED).permutation(RECORDS)
    for kind in fits(probe):
        case = CASES[kind]
        moved = ask(probe, Case(case.access, take(case.features, order), case.labels[order]))
        # Sums over records, and matrix products of other shapes, round differently.
        np.testing.assert_allclose(moved, known(probe.name, kind)[order], rtol=1e-8, atol=1e-10)


@dataclass
class Narrow:
    """Gives a probe what it declares to need and no more."""

    access: Any
    only_classes: bool
    classes: int = CLASSES

    def answers(self, features):
        outputs = self.access.answers(features)
        if not self.only_classes:
            return outputs
        return Outputs(np.eye(CLASSES)[outputs.values.argmax(axis=1)], "probabilities")

    def module(self):
        raise AssertionError("declared not to need weights")


@pytest.mark.parametrize("probe", [p for p in PROBES if p.needs != "weights"], ids=lambda p: p.name)
def test_only_what_is_declared_is_asked_for(probe: Probe):
    """`labels`: any answer with the same top class gives the same numbers. Not `weights`: the module is not touched."""
    for kind in fits(probe):
        case = CASES[kind]
        narrow = Case(Narrow(case.access, probe.needs == "labels"), case.features, case.labels)
        np.testing.assert_array_equal(ask(probe, narrow), known(probe.name, kind))


@every_probe
def test_says_what_it_is(probe: Probe):
    assert probe.unit
    assert any(char.isdigit() for char in probe.paper), "a paper has a year"
    assert probe.queries
    assert (probe.compute.__doc__ or "").startswith("[n, " if probe.vector else "[n]")
    assert probe.version >= 1


@every_probe
def test_some_attack_reads_it(probe: Probe):
    assert any(probe.name in attack.requires for attack in ATTACKS)


def test_what_a_probe_is_for_is_told_without_the_model():
    table, images = np.zeros((4, 3)), np.zeros((4, 1, 8, 8))
    assert misfit(PROBES["noise_robustness"], table, False) == ""
    assert "tables" in misfit(PROBES["noise_robustness"], images, True)
    assert misfit(PROBES["augmentation_robustness"], images, False) == ""
    assert "images" in misfit(PROBES["augmentation_robustness"], table, False)
    assert misfit(PROBES["gradient_norms"], table, True) == ""
    assert "torch" in misfit(PROBES["gradient_norms"], table, False)
    assert misfit(PROBES["boundary_distance"], images, False) == ""
