"""Adaptive attacks: shadows and known subset go through the candidate's defence, with and without is measured, and the
worse one is judged. What the defence was fitted to is nobody's non-member; answers that change are asked again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy_gate import pipeline, preparation
from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import AttackResult, Audit, Description, Evidence, Floats, Outputs, Role, ShadowPlan
from privacy_gate.defences import configure
from privacy_gate.errors import ExitCode
from privacy_gate.features import take
from privacy_gate.manifest import Dataset, load
from privacy_gate.manifest import audit as answer_key
from privacy_gate.measure import View, measure
from privacy_gate.observe import Answers, from_shadows, observe
from privacy_gate.policy import judge
from privacy_gate.registry.in_memory import Entry, InMemoryRegistry
from privacy_gate.reports.document import Report, parse
from privacy_gate.request import CheckRequest, Config, DataManifest
from privacy_gate.sandbox import Scored
from privacy_gate.sandbox.asking import settled
from privacy_gate.selftest import evidence, policy
from privacy_gate.shadows.plan import balanced, disjoint
from privacy_gate.signals import collect
from tests.worlds import Models, gaussian_models

SHADOWS = 4


def answers_of(models: Models, kind: Any = "logits") -> tuple[Answers, Audit]:
    n = len(models.labels)
    plan = ShadowPlan("balanced", models.shadow_member, np.ones(n, dtype=bool), np.arange(SHADOWS), n // 2)
    shadows = [Outputs(z.copy(), kind) for z in models.shadows]
    classes = tuple(f"class {k}" for k in range(models.target.shape[1]))
    audit = Audit(models.member, models.labels, models.persons, classes)
    return from_shadows(Outputs(models.target.copy(), kind), shadows, plan, models.labels), audit


def results(views: Sequence[View], audit: Audit, attack: str) -> list[AttackResult]:
    found = [o for view in views for o in measure(ATTACKS[attack], view, audit, 0)]
    assert all(isinstance(o, AttackResult) for o in found), found
    return [o for o in found if isinstance(o, AttackResult)]


def of(found: list[AttackResult], adaptive: bool) -> list[AttackResult]:
    return [r for r in found if r.adaptive is adaptive]


def exit_code(rule: str, limit: float, found: list[AttackResult], audit: Audit) -> int:
    told: Evidence = evidence(found, audit, 0)
    return judge(policy({rule: limit}), told).exit_code


# --- the worse of the two is judged ---------------------------------------------------------------------------------


def test_who_knows_of_the_defence_is_judged_where_that_tells_more() -> None:
    """A threshold of shadows without the defence does not fit answers that were flattened; one of flat shadows does."""
    answers, audit = answers_of(gaussian_models(600, 600, 4, 3.0, SHADOWS, seed=1))
    views = observe(answers, audit, ["modified_entropy"], configure({"output_coarsening": {"temperature": 8.0}})).views
    found = results(views, audit, "modified_entropy")
    at_most = max(r.accuracy.upper(0.05) for r in of(found, False))
    at_least = max(r.accuracy.lower(0.05 / len(found)) for r in of(found, True))
    assert at_most < at_least
    limit = (at_most + at_least) / 2
    assert exit_code("PG101", limit, of(found, False), audit) == ExitCode.PASS
    assert exit_code("PG101", limit, found, audit) == ExitCode.VIOLATED


def test_who_knows_of_none_is_judged_where_that_tells_more() -> None:
    """Noise on one's own references hides how hard a record is; whoever trains without the defence sees it.

    The records differ by ten standard deviations of a model's own dice. The target's noise is the same either way.
    """
    answers, audit = answers_of(gaussian_models(5000, 5000, 2, 10.0, SHADOWS, seed=2, difficulty=10.0))
    views = observe(answers, audit, ["lira"], configure({"output_noise": {"scale": 5.0, "one_time": True}})).views
    found = results(views, audit, "lira")
    aucs = {adaptive: [r.auc for r in of(found, adaptive) if r.auc is not None] for adaptive in (True, False)}
    at_most = max(auc.upper(0.05) for auc in aucs[True])
    at_least = max(auc.lower(0.05 / len(found)) for auc in aucs[False])
    assert at_most < at_least
    limit = (at_most + at_least) / 2
    assert exit_code("PG102", limit, of(found, True), audit) == ExitCode.PASS
    assert exit_code("PG102", limit, found, audit) == ExitCode.VIOLATED


def test_both_are_measured_once_for_each_attacker_who_has_shadows() -> None:
    answers, audit = answers_of(gaussian_models(100, 100, 4, 3.0, SHADOWS, seed=3))
    views = observe(answers, audit, ["confidence", "lira"], configure({"output_coarsening": {"decimals": 1}})).views
    told = [(r.id, r.threat_model.value, r.adaptive) for a in ("confidence", "lira") for r in results(views, audit, a)]
    assert sorted(set(told)) == [
        ("confidence", "known-subset", True),
        ("confidence", "shadow", False),
        ("confidence", "shadow", True),
        ("lira", "reference", False),
        ("lira", "reference", True),
    ]
    assert len(told) == 5 * 3  # scopes


# --- a defence of the training --------------------------------------------------------------------------------------


def test_shadows_trained_without_the_defence_are_the_other_view() -> None:
    """The defended models leak 1, undefended ones 4: who does not know of the defence expects too much."""
    defended, plain = (gaussian_models(400, 400, 4, leak, SHADOWS, seed=4) for leak in (1.0, 4.0))
    answers, audit = answers_of(defended)
    without, _ = answers_of(plain)
    both = replace(answers, undefended=replace(without, target=answers.target))
    (bare,) = observe(answers, audit, ["lira"]).views
    adaptive, naive = observe(both, audit, ["modified_entropy", "lira"]).views
    assert (adaptive.adaptive, naive.adaptive) == (True, False)
    for view, models in ((adaptive, defended), (naive, plain)):
        shadows = [collect(Outputs(z.copy(), "logits"), audit.labels, ["logit_confidence"]) for z in models.shadows]
        expected = np.stack([one["logit_confidence"] for one in shadows])
        np.testing.assert_array_equal(view.seen.references["logit_confidence"], expected)
        assert view.pool is not None
        np.testing.assert_array_equal(view.pool.target["logit_confidence"], expected.ravel())
        np.testing.assert_array_equal(view.seen.target["logit_confidence"], bare.seen.target["logit_confidence"])
    found = results([adaptive, naive], audit, "modified_entropy")
    best = {adaptive: max(r.accuracy.value for r in of(found, adaptive)) for adaptive in (True, False)}
    assert best[True] > best[False]  # a threshold half way to a leak of 4 is too high for one of 1


# --- what a fitted defence is fitted to -----------------------------------------------------------------------------

MEMGUARD: dict[str, Any] = {"hidden": [8], "iterations": 60, "c3": [0.1, 1.0]}


def test_a_fitted_defence_never_sees_an_audited_non_member() -> None:
    """All answers on non-members replaced: what members get is the same to the last bit, from every model."""
    models = gaussian_models(80, 80, 4, 3.0, SHADOWS, seed=5)
    rng = np.random.default_rng(6)
    beside = [Outputs(rng.normal(size=(60, 4)), "logits") for _ in range(1 + SHADOWS)]
    inside = np.concatenate([models.member[None], models.shadow_member])
    other = np.concatenate([models.target[None], models.shadows])
    other = np.where(inside[..., None], other, rng.normal(size=other.shape))
    changed = replace(models, target=other[0], shadows=other[1:])

    def seen(given: Models) -> Floats:
        answers, audit = answers_of(given)
        answers = replace(answers, beside=beside[0], beside_shadows=tuple(beside[1:]))
        view = observe(answers, audit, ["lira"], configure({"memguard": MEMGUARD})).views[0].seen
        return np.concatenate([view.target["logit_confidence"][None], view.references["logit_confidence"]])

    one, two = seen(models), seen(changed)
    np.testing.assert_array_equal(one[inside], two[inside])
    assert (one[~inside] != two[~inside]).mean() > 0.9  # the others were other answers


def test_a_fitted_defence_does_see_the_members_and_its_own_records() -> None:
    """The test above could not fail for a defence that is not fitted at all."""
    models = gaussian_models(80, 80, 4, 3.0, SHADOWS, seed=5)
    item = configure({"memguard": MEMGUARD}).items[0][1]
    rng = np.random.default_rng(6)
    known = np.concatenate([models.target[models.member], rng.normal(size=(60, 4))])
    member, asked = np.arange(140) < 80, Outputs(models.target, "logits")
    others = known + 3.0 * rng.normal(size=known.shape)
    fits = [known, np.where(member[:, None], others, known), np.where(member[:, None], known, others)]
    told = [item.fitted(Outputs(k, "logits"), member, 0)(asked).values for k in fits]
    assert (told[0] != told[1]).any()
    assert (told[0] != told[2]).any()


# --- the defence's own records --------------------------------------------------------------------------------------


def _table(folder: Path, name: str, x: Floats) -> str:
    np.savez(folder / f"{name}.npz", x=x, y=(np.arange(len(x)) % 2).astype(np.int64))
    return f"{name}.npz"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Mapping[str, str]]:
    """Ten of the 50 seen records are also among the non-members, ten others in the population."""
    x = np.random.default_rng(7).normal(size=(310, 3))
    seen = x[:50]
    parts = {
        "members": x[50:110],
        "nonmembers": np.concatenate([x[110:170], seen[:10]]),
        "population": np.concatenate([x[170:], seen[20:30]]),
        "seen": seen,
    }
    return tmp_path, {role: _table(tmp_path, role, part) for role, part in parts.items()}


def _load(files: tuple[Path, Mapping[str, str]]) -> Dataset:
    folder, named = files
    return load(DataManifest.model_validate(dict(named)), folder, lambda uri: Path(uri), reference=True)


def test_reference_records_are_neither_members_nor_others_nor_population(files: tuple[Path, Mapping[str, str]]) -> None:
    data = _load(files)
    assert (data.members, data.nonmembers, data.population, data.reference) == (60, 60, 140, 50)
    assert data.removed == {
        "non-members identical to seen records": 10,
        "population records identical to audited or seen records": 10,
    }
    own = data.role_mask(Role.SEEN)
    rows = {tuple(row) for row in np.asarray(take(data.features, own))}
    assert len(rows) == 50
    assert not rows & {tuple(row) for row in np.asarray(take(data.features, ~own))}
    key = answer_key(data, data.raw_labels.astype(np.int64), (0, 1))
    assert len(key.member) == 120
    assert not own[:120].any()


def test_no_plan_trains_or_tests_a_shadow_on_reference_records(files: tuple[Path, Mapping[str, str]]) -> None:
    data = _load(files)
    member, nonmember, population, own = (data.role_mask(role) for role in Role)
    labels = data.raw_labels.astype(np.int64)
    for plan in (
        # More than the audited records can give: the population fills up.
        balanced(data.persons, member, nonmember, population, SHADOWS, 150, 0),
        disjoint(data.persons, population, SHADOWS, 60, 0, labels),
    ):
        assert plan.member[:, population].any()
        assert not plan.member[:, own].any()
        assert not plan.pool[own].any()


# --- answers that change --------------------------------------------------------------------------------------------


class Noisy:
    """A model that adds fresh noise to its logits at every call; counts the calls."""

    def __init__(self, logits: Floats, scale: float) -> None:
        self._logits, self._scale = logits, scale
        self._rng, self.calls = np.random.default_rng(8), 0

    def __call__(self, rows: Any, kind: Any) -> Outputs:
        self.calls += 1
        z = self._logits[np.asarray(rows)[:, 0].astype(np.int64)]
        return Outputs(z + self._scale * self._rng.normal(size=z.shape), "logits")


def test_a_model_that_throws_dice_is_found_as_well_as_one_that_does_not() -> None:
    """Members are 3 higher in the margin, whose deviation is 1; the noise adds 2, and a sixteenth of its variance is
    left: accuracies of 0.933 without noise, 0.749 where it is asked once, 0.910 where it is asked as the gate asks.

    The mean of softmaxes is not that of logits, so the middle of these is the line between them, not the value itself.
    """
    n, rng = 1500, np.random.default_rng(9)
    member = np.arange(2 * n) < n
    margin = 3.0 * member - 1.5 + rng.normal(size=2 * n)
    logits = np.stack([-margin / 2, margin / 2], axis=1)
    audit = Audit(member, np.ones(2 * n, dtype=np.int64), np.arange(2 * n), ("no", "yes"))

    def accuracy(outputs: Outputs) -> float:
        (view,) = observe(Answers(outputs), audit, ["confidence"]).views
        found = [o for o in measure(ATTACKS["confidence"], view, audit, 0) if isinstance(o, AttackResult)]
        return max(float(r.accuracy.value) for r in found)

    rows = np.arange(2 * n)[:, None]
    # Two independent logits of sqrt(2) each: a deviation of 2 in their difference.
    model = Noisy(logits, np.sqrt(2.0))
    asked = accuracy(settled(model, rows, "logits", rows[:100]))
    assert model.calls == 1 + 1 + 15  # one answer, the first batch again, and fifteen more answers
    bare, once = accuracy(Outputs(logits, "logits")), accuracy(Noisy(logits, np.sqrt(2.0))(rows, "logits"))
    # Standard deviation of an accuracy at 1,500 a side: below 0.008; these are three of them and more.
    assert bare == pytest.approx(0.933, abs=0.024)
    assert once == pytest.approx(0.749, abs=0.024)
    assert bare - 0.05 < asked <= bare + 0.024
    assert asked > once + 0.1


# --- what the registry declares -------------------------------------------------------------------------------------

TAGGED = {"output_coarsening": {"decimals": 1}}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in a registry in memory, scored in this process: the street is the real one from there on."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors:\n  sklearn: {pickled_model: model.pkl}\nmodel_uuid: m-1\n")
    (folder / "model.pkl").write_bytes(b"never loaded")
    rng = np.random.default_rng(10)
    for name in ("members", "nonmembers"):
        _table(tmp_path, name, rng.normal(size=(60, 3)))

    def examine(candidate: Any, features: Any, workdir: Path, **_: Any) -> tuple[Description, Scored]:
        x = np.asarray(features)
        values = np.stack([x[:, 0], x[:, 1] + 0.123456], axis=1)
        return Description("sklearn", "classifier", (0, 1), None), Scored(Outputs(values, "logits"), True, 0.0, workdir)

    monkeypatch.setattr(preparation, "examine", examine)
    # What the inputs tell is another test's: it takes as long as all the rest.
    monkeypatch.setattr(pipeline, "look", lambda *_: None)
    return tmp_path


def judged(folder: Path, monkeypatch: pytest.MonkeyPatch, tags: dict[str, str], **config: Any) -> Report:
    known = InMemoryRegistry()
    known.add("churn", folder / "model", "candidate", Entry(folder / "model", tags))
    monkeypatch.setattr(preparation, "open_registry", lambda *_: known)
    given = {
        "apiVersion": "privacy-gate/v1",
        "model": "models:/churn@candidate",
        "data": {"members": "members.npz", "nonmembers": "nonmembers.npz"},
        "shadows": {"count": 0},
        **config,
    }
    request = CheckRequest(
        config=Config.model_validate(given),
        config_dir=folder,
        suite="fast",
        store=folder / "store",
        out=folder / "out",
        formats=("json",),
        mlflow_log=False,
    )
    pipeline.check(request)
    return parse((folder / "out" / "report.json").read_bytes())


def finding(report: Report) -> tuple[str, str]:
    (found,) = [f for f in report.validity if f.check == "undeclared_defence"]
    return found.status, found.reason


def test_settings_in_a_tag_are_the_defence_where_the_config_names_none(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = judged(registry, monkeypatch, {"defence": json.dumps(TAGGED)})
    assert report.defence is not None
    assert report.defence.id == "output_coarsening"
    assert finding(report)[0] == "pass"
    bare = judged(registry, monkeypatch, {})
    assert bare.defence is None
    assert finding(bare)[0] == "pass"


@pytest.mark.parametrize(
    ("tags", "config", "says"),
    [
        ({"defence": '{"output_coarsening": {"decimals": "one"}}'}, {}, "the configuration names none"),
        ({"defence": "memguard"}, {}, "'memguard', the configuration names none"),
        ({"defence": json.dumps(TAGGED), "defence_digest": "0" * 64}, {}, "with other settings"),
        ({"defence": json.dumps(TAGGED)}, {"defence": {"output_coarsening": {"decimals": 3}}}, "with other settings"),
        ({"defence": json.dumps(TAGGED)}, {"defence": {"output_coarsening": {"decimals": 1}}}, ""),
    ],
    ids=["bad setting", "name alone", "other digest", "other settings", "the same"],
)
def test_a_defence_that_the_attacks_did_not_go_through_is_told(
    registry: Path, monkeypatch: pytest.MonkeyPatch, tags: dict[str, str], config: dict[str, Any], says: str
) -> None:
    report = judged(registry, monkeypatch, tags, **config)
    status, reason = finding(report)
    assert status == ("fail" if says else "pass"), reason
    assert says in reason
    assert report.verdict.exit_code != ExitCode.PASS
