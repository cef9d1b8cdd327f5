"""Models that exist already: what they may be used for, proven on worlds without a leak and on worlds with one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from privacy_gate import existing as module
from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.attacks import Attack
from privacy_gate.datamodel import (
    AttackResult,
    AttackSkipped,
    Audit,
    Candidate,
    Description,
    Outputs,
    Scope,
    ShadowPlan,
    ThreatModel,
)
from privacy_gate.errors import ConfigError, DataError, ModelOutputUnusable
from privacy_gate.existing import Place, Subject, arrange, existing
from privacy_gate.manifest import load
from privacy_gate.measure import measure
from privacy_gate.observe import from_shadows, observe
from privacy_gate.registry.in_memory import InMemoryRegistry
from privacy_gate.request import DataManifest, LoadedModel
from privacy_gate.sandbox import Scored
from privacy_gate.sandbox.outputs import Form
from privacy_gate.shadows.store import Store


def answer_key(members, nonmembers, persons=None, classes=2):
    n = members + nonmembers
    people = np.arange(n) if persons is None else np.asarray(persons)
    return Audit(np.arange(n) < members, np.arange(n) % classes, people, tuple(map(str, range(classes))))


def folds(members, nonmembers, count, rng):
    """[S, R] each model trained on all members but those of its fold."""
    of = rng.permutation(members) % count
    return np.array([np.concatenate([of != s, np.zeros(nonmembers, bool)]) for s in range(count)])


def drawn(count, records, rng):
    """[S, R] each record in half of the models, by lot."""
    return rng.permuted(np.tile(np.arange(count)[:, None] < count // 2, (1, records)), axis=0)


# --- what they can be used for ----------------------------------------------------------------------------------------


def test_fold_models_set_thresholds_from_the_members_alone():
    audit = answer_key(100, 80)
    found = arrange(folds(100, 80, 5, np.random.default_rng(0)), audit, "abcde")
    assert not found.by_lot
    assert found.kept == (0, 1, 2, 3, 4)
    assert (found.pool == audit.member).all()
    assert "members alone" in found.notes[0]


def test_models_drawn_by_lot_are_references():
    audit = answer_key(400, 400)
    rng = np.random.default_rng(1)
    inside = drawn(12, 800, rng)
    found = arrange(inside, audit, list("abcdefghijkl"))
    assert found.by_lot
    assert found.pool.all()


def test_a_record_that_is_in_too_few_models_makes_them_no_references():
    audit = answer_key(400, 400)
    inside = drawn(12, 800, np.random.default_rng(1))
    inside[1:, 7] = False
    assert not arrange(inside, audit, list("abcdefghijkl")).by_lot


def test_equal_counts_do_not_hide_models_of_one_side():
    """Two models of the members and two of the others hold every record twice; each by itself tells the answer."""
    audit = answer_key(100, 100)
    inside = np.array([audit.member, audit.member, ~audit.member, ~audit.member])
    with pytest.raises(DataError, match="10 of either kind"):
        arrange(inside, audit, "abcd")
    # With a few exceptions there is something to set thresholds with, and still they are no references.
    inside[0, :30] = False
    found = arrange(inside, audit, "abcd")
    assert not found.by_lot
    assert found.kept == (0,)
    assert any("b, c, d" in note for note in found.notes)


def test_versions_that_saw_more_of_the_other_side_use_that_side():
    audit = answer_key(50, 100)
    inside = np.zeros((1, 150), dtype=bool)
    inside[0, 50:100] = True  # records that were taken out of training since
    inside[0, :12] = True
    found = arrange(inside, audit, "a")
    assert (found.pool == ~audit.member).all()
    assert "non-members alone" in found.notes[0]


def test_persons_who_are_split_between_folds_set_no_threshold():
    persons = np.concatenate([np.arange(100) // 2, np.arange(100, 180)])
    audit = answer_key(100, 80, persons)
    inside = folds(100, 80, 5, np.random.default_rng(0))
    found = arrange(inside, audit, "abcde")
    split = {p for p in range(50) for row in inside if row[persons == p].any() and not row[persons == p].all()}
    assert 0 < len(split) < 50
    assert set(persons[found.pool]) == set(range(50)) - split
    assert any(f"{len(split)} persons" in note for note in found.notes)


def test_models_that_hold_all_members_set_no_threshold():
    audit = answer_key(100, 80)
    inside = np.array([audit.member, audit.member])
    with pytest.raises(DataError, match="fold models"):
        arrange(inside, audit, "ab")


# --- worlds without a leak, and with one ------------------------------------------------------------------------------


def world(seed, kind, *, leak=0.0, n=100, classes=2, jitter=0.3):
    """Logits of a target and of existing models on the same records: alike, but for `leak` where they trained."""
    rng = np.random.default_rng(seed)
    audit = answer_key(n, n, classes=classes)
    base = 1.5 * rng.normal(size=(2 * n, classes))
    base[np.arange(2 * n), audit.labels] += 1.0

    def model(inside):
        logits = base + jitter * rng.normal(size=base.shape)
        logits[inside, audit.labels[inside]] += leak
        return Outputs(logits, "logits")

    if kind == "folds":
        inside = folds(n, n, 5, rng)
    else:  # versions that grew with the members
        order = rng.permutation(n)
        inside = np.array([np.concatenate([order < n * share, np.zeros(n, bool)]) for share in (0.3, 0.5, 0.7)])
    return audit, inside, model(audit.member), [model(row) for row in inside]


def outcomes(audit, inside, target, outputs, pool, attacks=("confidence", "entropy"), by_lot=False):
    plan = ShadowPlan("loaded", inside, pool, np.zeros(len(inside), np.int64), audit.member.sum(), by_lot=by_lot)
    seen = observe(from_shadows(target, outputs, plan, audit.labels), audit, attacks)
    shadow = (ThreatModel.SHADOW,)
    return [o for id in attacks for o in measure(replace(ATTACKS[id], threat_models=shadow), seen.views[0], audit, 0)]


def false_alarms(kind, worlds, *, naive=False, **changes):
    """(attack, scope) -> in how many worlds without a leak a bound at 5 % says that there is one."""
    found = {}
    for seed in range(worlds):
        audit, inside, target, outputs = world(seed, kind, **changes)
        pool = np.ones(len(audit.member), bool) if naive else arrange(inside, audit, list("abcde")).pool
        for outcome in outcomes(audit, inside, target, outputs, pool):
            key = outcome.id, outcome.threshold
            found[key] = found.get(key, 0) + (outcome.accuracy.lower(0.05) > 0.5)
    return found


WORLDS = 200
# Six figures a kind: each stays below with probability 1 - 1e-4 if false alarms have probability .05.
MOST = int(binom.isf(1e-4, WORLDS, 0.05))


@pytest.mark.parametrize("kind", ["folds", "versions"])
def test_thresholds_of_existing_models_find_no_leak_where_there_is_none(kind):
    found = false_alarms(kind, WORLDS)
    assert set(found) == {(id, scope) for id in ("confidence", "entropy") for scope in Scope}
    assert max(found.values()) <= MOST, found


def test_the_same_models_with_both_sides_in_the_pool_would_raise_false_alarms():
    """Why one side alone: in and out are members and non-members then, and a threshold fits what is not there."""
    alike = {"classes": 10, "n": 200, "jitter": 0.1}
    found = false_alarms("versions", WORLDS // 2, naive=True, **alike)
    assert found["confidence", Scope.CLASS_WEIGHTED] > WORLDS // 2 // 5  # four times the level
    assert max(false_alarms("versions", WORLDS // 2, **alike).values()) <= MOST


@pytest.mark.parametrize("kind", ["folds", "versions"])
def test_a_leak_is_found_by_them(kind):
    audit, inside, target, outputs = world(0, kind, leak=3.0, n=300)
    pool = arrange(inside, audit, list("abcde")).pool
    best = max(o.accuracy.lower(0.05) for o in outcomes(audit, inside, target, outputs, pool))
    assert best > 0.7


def test_an_attack_that_learns_would_know_the_members_by_heart_and_is_left_out():
    """A nearest neighbour, without any leak: what an earlier version said of a member names the member."""

    def nearest(seen):
        values, known = seen.target["logit_confidence"], seen.known
        taught = np.flatnonzero(known >= 0)
        distance = np.abs(values[:, None] - values[None, taught])
        distance[taught, np.arange(len(taught))] = np.inf  # nobody is their own neighbour
        # Two of the pool who agree are surer than two who do not.
        near = np.argsort(distance, axis=1)[:, :1]
        return known[taught][near].mean(axis=1) - 50.0 * np.take_along_axis(distance, near, 1)[:, 0]

    learner = Attack(
        "nearest", "other", "", frozenset({"logit_confidence"}), (ThreatModel.SHADOW,), "", nearest, reads_known=True
    )
    audit, inside, target, outputs = world(0, "versions", jitter=0.0, n=200)
    plan = ShadowPlan("loaded", inside, audit.member, np.zeros(3, np.int64), 200, by_lot=False)
    view = observe(from_shadows(target, outputs, plan, audit.labels), audit, ["confidence"]).views[0]
    (skipped,) = measure(learner, view, audit, 0)
    assert isinstance(skipped, AttackSkipped)
    assert "by lot" in skipped.reason
    taken = [o for o in measure(learner, replace(view, by_lot=True), audit, 0) if isinstance(o, AttackResult)]
    assert taken[0].auc.lower(0.001) > 0.7  # the harm that is avoided


# --- lists and models -------------------------------------------------------------------------------------------------


@pytest.fixture
def records(tmp_path):
    """Forty records on either side, ids as text with leading zeros."""
    rng = np.random.default_rng(0)
    for name, start in (("members", 0), ("nonmembers", 500)):
        frame = pd.DataFrame({"x": rng.normal(size=40), "y": np.arange(40) % 2})
        frame["key"] = [f"{start + i:04d}" for i in range(40)]
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    return DataManifest(members="members.csv", nonmembers="nonmembers.csv", label="y", id="key")


RECIPE = {"class": "sklearn.tree.DecisionTreeClassifier", "params": {"max_depth": 3}}


def candidate(name, flavor="sklearn"):
    return Candidate(name, name, Path("nowhere"), name * 8, flavor, False)


class Registry(InMemoryRegistry):
    """Models that are names."""

    def resolve(self, uri, into):
        return candidate(Path(uri).name, "pytorch" if "torch" in uri else "sklearn")


@pytest.fixture
def setup(tmp_path, records, monkeypatch):
    """(subject, place, what was asked): models answer with their number, classes turned around."""
    dataset = load(records, tmp_path, lambda uri: tmp_path / uri)
    audit = Audit(np.arange(80) < 40, dataset.raw_labels.astype(np.int64), dataset.persons, ("0", "1"))
    asked = []

    def examine(model, features, work, **options):
        asked.append((model.uri, len(features)))
        recipe = {**RECIPE, "params": {"max_depth": 9}} if "deep" in model.uri else RECIPE
        first = np.asarray(features["x"])
        values = np.stack([first, -first], axis=1)
        return (
            Description(
                model.flavor, "classifier", ("odd", "even") if model.uri.endswith("strange") else (1, 0), recipe
            ),
            Scored(Outputs(values, "logits"), True, 0.0, work / "log"),
        )

    monkeypatch.setattr(module, "examine", examine)
    description = Description("sklearn", "classifier", (0, 1), RECIPE)
    subject = Subject(candidate("target"), description, dataset, audit, (0, 1), Form("logits"))
    return subject, Place(Registry(), Store(tmp_path / "store"), tmp_path, tmp_path / "work"), asked


def listed(folder, name, keys, column="key"):
    pd.DataFrame({column: keys}).to_csv(folder / f"{name}.csv", index=False)
    return LoadedModel(model=name, members=f"{name}.csv")


def two_folds(folder):
    return [listed(folder, "a", [f"{i}" for i in range(20)]), listed(folder, "b", [f"{i}.0" for i in range(20, 40)])]


def test_models_answer_in_the_order_of_the_records_and_of_the_candidates_classes(setup, records, tmp_path):
    subject, place, asked = setup
    found = existing(two_folds(tmp_path), records, subject, place)
    assert found.plan.kind == "loaded"
    assert not found.plan.by_lot
    assert found.plan.proxy == ""
    assert found.plan.sizes == (20, 20)
    assert found.plan.member.sum(axis=1).tolist() == [20, 20]  # 7, 7.0 and "0007" are one id
    assert (found.plan.member[0] == (np.arange(80) < 20)).all()
    assert (found.plan.pool == (np.arange(80) < 40)).all()
    first = np.asarray(subject.dataset.features["x"])
    for outputs in found.outputs:
        np.testing.assert_array_equal(outputs.values, np.stack([-first, first], axis=1))
    assert asked == [("a", 80), ("b", 80)]
    assert found.asked == 2


def test_a_second_run_asks_nobody_and_finds_the_same(setup, records, tmp_path):
    subject, place, asked = setup
    first = existing(two_folds(tmp_path), records, subject, place)
    again = existing(two_folds(tmp_path), records, subject, place)
    assert len(asked) == 2
    assert again.asked == 0
    for one, other in zip(first.outputs, again.outputs, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
    # Other records, or answers that are read in another way, are another question.
    existing(two_folds(tmp_path), records, replace(subject, form=Form("probabilities")), place)
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("name", "said"), [("deep", "other settings (max_depth)"), ("torchy", "a pytorch model, the candidate a sklearn")]
)
def test_another_recipe_or_library_makes_proxies(setup, records, tmp_path, name, said):
    subject, place, asked = setup
    models = [two_folds(tmp_path)[0], listed(tmp_path, name, range(15))]
    for _ in range(2):  # asked, and from the store
        found = existing(models, records, subject, place)
        assert said in found.plan.proxy
        assert found.plan.proxy.startswith(f"{name}: ")
    assert len(asked) == 2


def test_records_that_nobody_audits_are_counted_and_told(setup, records, tmp_path):
    subject, place, _ = setup
    models = [two_folds(tmp_path)[0], listed(tmp_path, "c", [*range(20, 40), *range(9000, 9100)])]
    found = existing(models, records, subject, place)
    assert any("120 records: 20 are audited" in note and "(100)" in note for note in found.plan.notes)
    assert found.plan.sizes == (20, 120)


def test_what_cannot_be_used_is_refused(setup, records, tmp_path):
    subject, place, asked = setup
    good = two_folds(tmp_path)
    without = records.model_copy(update={"id": None})
    cases = [
        (good, without, ConfigError, "data.id"),
        ([listed(tmp_path, "e", [7000, 7001])], records, DataError, "none of its 2 records is audited"),
        ([listed(tmp_path, "f", [1, 2], "number")], records, DataError, "no column 'key'"),
        ([listed(tmp_path, "g", [1.0, None])], records, DataError, "missing"),
        ([listed(tmp_path, "target", range(20))], records, ConfigError, "is the candidate itself"),
        ([good[0], LoadedModel(model="a", members="b.csv")], records, ConfigError, "same model as a"),
        ([listed(tmp_path, "h", range(40))], records, DataError, "10 of either kind"),
        ([LoadedModel(model="i", members="nowhere.csv")], records, DataError, "no such file"),
    ]
    for models, manifest, kind, said in cases:
        with pytest.raises(kind, match=said) as raised:
            existing(models, manifest, subject, place)
        assert raised.value.hint
    assert asked == []  # nobody is asked before all lists are read


def test_ids_on_both_sides_tell_nobody_apart(setup, records, tmp_path):
    subject, place, _ = setup
    doubled = replace(subject.dataset, ids=np.concatenate([subject.dataset.ids[:40]] * 2))
    with pytest.raises(ConfigError, match="40 ids of 'key' name both"):
        existing(two_folds(tmp_path), records, replace(subject, dataset=doubled), place)


def test_a_model_of_other_classes_is_named(setup, records, tmp_path):
    subject, place, _ = setup
    models = [two_folds(tmp_path)[0], listed(tmp_path, "strange", range(20, 40))]
    with pytest.raises(ModelOutputUnusable, match=r"shadows\.recipe\.load\.1: it knows a class 'odd'"):
        existing(models, records, subject, place)


def test_the_population_is_not_asked_about(setup, records, tmp_path):
    """An audit by sample leaves most records in the population: nobody looks at what models say of them."""
    subject, place, asked = setup
    dataset = subject.dataset
    grown = replace(
        dataset,
        features=pd.concat([dataset.features, dataset.features.iloc[:10]], ignore_index=True),
        raw_labels=np.concatenate([dataset.raw_labels, dataset.raw_labels[:10]]),
        persons=np.arange(90),
        population=10,
    )
    found = existing(two_folds(tmp_path), records, replace(subject, dataset=grown), place)
    assert asked == [("a", 80), ("b", 80)]
    assert found.outputs[0].values.shape == (90, 2)
    assert not found.plan.pool[80:].any()
    assert not found.plan.member[:, 80:].any()


def test_answers_of_other_libraries_are_not_taken_for_those_of_these(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from privacy_gate import existing
    from privacy_gate.sandbox.outputs import AUTO
    from privacy_gate.sandbox.runtime import HERE, Runtime

    dataset = SimpleNamespace(features=np.zeros((3, 2)), audited=3, role_mask=lambda role: np.zeros(3, bool))
    model = SimpleNamespace(digest="0" * 64)

    def key(runtime):
        return existing._key(model, SimpleNamespace(dataset=dataset, form=AUTO, classes=(0, 1), runtime=runtime))

    python = tmp_path / "python"
    here, there = key(HERE), key(Runtime(python, versions={"python": "3.12.1", "numpy": "2.0"}))
    assert key(HERE) == here != there
    assert key(Runtime(python, versions={"python": "3.12.1", "numpy": "2.1"})) != there  # upgraded in its place
    real = existing._versions
    monkeypatch.setattr(existing, "_versions", lambda *asked: {**real(*asked), "scikit-learn": "0.0"})
    assert key(HERE) != here
