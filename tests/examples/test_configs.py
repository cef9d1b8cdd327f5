"""What the examples say to the gate is what the gate understands, and names files that are there."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from examples import health_records
from privacy_gate import metrics
from privacy_gate.policy.load import resolve
from privacy_gate.request import Config

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """examples/NAME/train.py as a module; its folder is importable, as when Python runs the file."""
    path = EXAMPLES / name / "train.py"
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location(f"examples_{name}_train", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.pop("model", None)
    return module


def read(path: Path) -> Config:
    return Config.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", ["leaky", "private"])
def test_config(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read(EXAMPLES / name / "privacy-gate.yaml")
    assert config.model == f"models:/{script(name, monkeypatch).NAME}@candidate"
    assert (config.data.label, config.data.person) == (health_records.LABEL, health_records.PERSON)
    assert config.tracking_uri is None  # the environment says it: ci/demo has a registry of its own
    assert config.shadows.recipe.clone
    root = EXAMPLES.parent
    for source, file in ((config.data.members, "members.csv"), (config.data.nonmembers, "nonmembers.csv")):
        assert (EXAMPLES / name / source.path).resolve() == root / ".demo" / "data" / file
    assert config.policy is not None
    assert (EXAMPLES / name / config.policy).is_file()


@pytest.mark.parametrize("name", ["leaky", "private"])
def test_policy_is_standard_but_for_the_rule_that_warns(name: str) -> None:
    standard, policy = resolve("standard"), resolve(EXAMPLES / name / "privacy-policy.yaml")
    assert policy.profile == "standard"
    for rule, theirs in zip(policy.rules, standard.rules, strict=True):
        assert rule.id == theirs.id
        if rule.id == "PG104":
            assert rule.settings.action == "warn"
            assert "cannot decide" in rule.settings.reason
            assert rule.settings.max == theirs.settings.max
        else:
            assert rule.settings == theirs.settings
    assert (policy.alpha_pass, policy.alpha_fail) == (standard.alpha_pass, standard.alpha_fail)


def test_policy_comment_tells_what_the_records_can_decide() -> None:
    # 2,953 and 2,954 persons: enough to pass at 0.1 % FPR, too few to fail. The comment quotes the second number.
    needed_to_fail = metrics.nonmembers_for_tpr(0.001, 0.05)
    needed_to_pass = metrics.nonmembers_to_pass_tpr(0.001, 0.01, 0.05, 2953)
    assert needed_to_pass is not None
    assert needed_to_pass <= 2954 < needed_to_fail
    assert f"{needed_to_fail:,} persons" in (EXAMPLES / "leaky" / "privacy-policy.yaml").read_text()


def test_both_examples_are_judged_alike() -> None:
    leaky, private = (EXAMPLES / name / "privacy-policy.yaml" for name in ("leaky", "private"))
    assert leaky.read_text() == private.read_text()


def test_written_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    location = script("location30", monkeypatch)
    config = Config.model_validate(yaml.safe_load(yaml.safe_dump(location.config("net", "small", epochs=8, shadows=4))))
    assert config.model == "models:/net@candidate"
    assert config.shadows.count == 4
    assert config.shadows.recipe.model == "model.py:small"
    training = config.shadows.recipe.training
    assert training is not None
    # The shadows must be trained as the candidate is; `fit` in train.py has these numbers.
    assert (training.epochs, training.batch_size, training.learning_rate) == (8, location.BATCH, location.LEARNING_RATE)
    assert config.data.classes == list(range(30))

    adult = script("adult", monkeypatch)
    config = Config.model_validate(yaml.safe_load(yaml.safe_dump(adult.config("a", ["age", "sex"], shadows=2))))
    assert config.data.features == ["age", "sex"]
    assert config.data.groups == ["sex", "race"]


def test_the_network_is_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    network = script("location30", monkeypatch).model.classifier()
    widths = [tuple(p.shape) for name, p in network.named_parameters() if name.endswith("weight")]
    assert widths == [(1024, 446), (512, 1024), (256, 512), (128, 256), (30, 128)]


@pytest.mark.reference
def test_location30_sides_are_disjoint_and_as_published(reference_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    sides = script("location30", monkeypatch).records(reference_data)
    assert {name: x.shape for name, (x, _) in sides.items()} == {"members": (1000, 446), "nonmembers": (1000, 446)}
    with np.load(reference_data / "location30" / "predictions_undefended.npz") as published:
        np.testing.assert_array_equal(sides["members"][1], published["target_member_labels"])
        np.testing.assert_array_equal(sides["nonmembers"][1], published["target_nonmember_labels"])


@pytest.mark.reference
def test_adult_sides_are_as_published(reference_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adult = script("adult", monkeypatch)
    sides = adult.records(reference_data)
    assert {name: len(table) for name, table in sides.items()} == {"members": 32_561, "nonmembers": 16_281}
    assert all("split" not in table and not table.isna().any().any() for table in sides.values())
    sample = sides["members"].head(300)
    for kind in ("forest", "logistic"):
        model = adult.estimator(kind, sample, 10).fit(sample.drop(columns="income"), sample["income"])
        assert list(model.classes_) == ["<=50K", ">50K"]
