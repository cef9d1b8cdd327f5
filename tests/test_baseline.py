"""The candidate against an approved model: member lists, paired differences, and what is refused."""

from __future__ import annotations

import math
import stat
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from privacy_gate import baseline, manifest
from privacy_gate.baseline import Anchor, Subject, anchor, member_list, pseudonym_key
from privacy_gate.datamodel import AttackResult, Audit, Description, Outputs, Role, Scope, ThreatModel
from privacy_gate.errors import CandidateNotFound, DataError, UsageError
from privacy_gate.metrics import balanced_accuracy
from privacy_gate.pairs import gain, paired_difference
from privacy_gate.policy.attempts import attempt_number
from privacy_gate.registry import RecordedReport, Registry, open_registry
from privacy_gate.registry.in_memory import InMemoryRegistry
from privacy_gate.reports import document
from privacy_gate.reports.compare import Stored
from privacy_gate.request import DataManifest
from privacy_gate.sandbox import Scored
from privacy_gate.sandbox.outputs import Form
from tests.mlflow_server import embedded_registry, tracking
from tests.reports.samples import SAMPLES

KEY = b"a key of enough bytes to be one!"
ATTACKS = ("correctness", "confidence", "modified_entropy", "lira")


# --- the paired difference --------------------------------------------------------------------------------------------


def drawn(rng, n, both, first, second, per=1, alike=0.0):
    """Two decisions on n records with given joint shares; a person's `per` records share their answer that often."""
    cells = np.array([both, first, second, 1 - both - first - second])
    people = n // per
    shared, own = rng.choice(4, size=people, p=cells), rng.choice(4, size=(people, per), p=cells)
    copied = rng.random((people, per)) < math.sqrt(alike)
    cell = np.where(copied, shared[:, None], own).ravel()
    return (cell == 0) | (cell == 1), (cell == 0) | (cell == 2), np.repeat(np.arange(people), per)


def drawn_sides(rng, n, members, nonmembers, per=1, alike=0.0):
    a, b, p = drawn(rng, n, *members, per, alike)
    c, d, q = drawn(rng, n, *nonmembers, per, alike)
    persons = np.concatenate([p, q + p.max() + 1])
    return np.concatenate([a, c]), np.concatenate([b, d]), np.arange(2 * n) < n, persons


def slow_paired_bound(first, second, member, z):
    """The bound written out for independent records; z < 0 for the lower one."""

    def wilson(p, n, z):
        centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (centre + spread) / (1 + z * z / n)

    def reach(side, z):
        rows = [i for i in range(len(member)) if member[i] == side]
        n = len(rows)
        p = sum(first[i] and not second[i] for i in rows) / n
        q = sum(second[i] and not first[i] for i in rows) / n
        a, b = abs(wilson(p, n, z) - p), abs(wilson(q, n, -z) - q)
        r = -math.sqrt(p * q / ((1 - p) * (1 - q)))
        return p - q, a * a + b * b - 2 * r * a * b

    (d1, far1), (d0, far0) = reach(True, z), reach(False, -z)
    return (d1 - d0) / 2 + math.copysign(math.sqrt(far1 + far0) / 2, z)


@pytest.mark.parametrize("seed", range(5))
def test_bounds_against_a_slow_twin(seed):
    rng = np.random.default_rng(seed)
    first, second, member, persons = drawn_sides(rng, 60, (0.5, 0.1, 0.05), (0.2, 0.1, 0.1))
    found = paired_difference(first, second, member, persons)
    # Rounding only: both are a handful of operations in double precision.
    assert found.lower(0.05) == pytest.approx(slow_paired_bound(first, second, member, -1.6448536269514722), abs=1e-12)
    assert found.upper(0.01) == pytest.approx(slow_paired_bound(first, second, member, 2.3263478740408408), abs=1e-12)
    accuracies = [balanced_accuracy(d, member, persons).value for d in (first, second)]
    assert found.value == pytest.approx(accuracies[0] - accuracies[1], abs=1e-12)


@pytest.mark.parametrize(("n", "per", "alike"), [(300, 1, 0.0), (600, 4, 0.5)])
def test_bounds_cover_the_truth(n, per, alike):
    """One-sided misses at 5 %: 600 worlds have a standard error of 0.9 points; three of them, and the 0.5 points by
    which Wilson-type bounds may exceed their level, make 8.2 %."""
    members, nonmembers = (0.5, 0.10, 0.03), (0.2, 0.04, 0.06)
    truth = ((0.10 - 0.03) - (0.04 - 0.06)) / 2
    rng = np.random.default_rng(n)
    low = high = 0
    for _ in range(600):
        found = paired_difference(*drawn_sides(rng, n, members, nonmembers, per, alike))
        low += found.lower(0.05) > truth
        high += found.upper(0.05) < truth
    assert low / 600 <= 0.082
    assert high / 600 <= 0.082


def test_forgetting_that_people_have_several_records_misses_more():
    """The reason for clusters: with them taken for independent, the bounds above would not hold."""
    members, nonmembers = (0.5, 0.10, 0.03), (0.2, 0.04, 0.06)
    truth = ((0.10 - 0.03) - (0.04 - 0.06)) / 2
    rng = np.random.default_rng(1)
    naive = 0
    for _ in range(300):
        first, second, member, _persons = drawn_sides(rng, 600, members, nonmembers, 6, 0.9)
        naive += paired_difference(first, second, member, np.arange(1200)).lower(0.05) > truth
    assert naive / 300 > 0.10  # twice the level


def test_pairs_are_narrower_than_two_separate_figures():
    first, second, member, persons = drawn_sides(np.random.default_rng(3), 1000, (0.6, 0.05, 0.02), (0.3, 0.02, 0.02))
    found = paired_difference(first, second, member, persons)
    apart = [balanced_accuracy(d, member, persons) for d in (first, second)]
    width = math.hypot(apart[0].value - apart[0].lower(0.05), apart[1].upper(0.05) - apart[1].value)
    assert found.value - found.lower(0.05) < 0.6 * width


def test_agreement_on_everybody_is_not_certainty():
    same = np.arange(80) % 2 == 0
    found = paired_difference(same, same, np.arange(80) < 40, np.arange(80))
    assert found.value == 0.0
    # Wilson's upper bound of no disagreement among 40: z^2 / (40 + z^2), on two sides, halved.
    z2 = 1.6448536269514722**2
    # Both shares of a side could be that large, on both sides: sqrt(1 + 1) / 2 of it from the two that matter.
    assert found.lower(0.05) == pytest.approx(-math.sqrt(2) / 2 * z2 / (40 + z2), abs=1e-12)
    assert found.upper(0.05) == -found.lower(0.05)


def test_swapping_the_models_turns_the_sign():
    first, second, member, persons = drawn_sides(
        np.random.default_rng(4), 90, (0.5, 0.1, 0.05), (0.2, 0.1, 0.1), 3, 0.5
    )
    one, other = paired_difference(first, second, member, persons), paired_difference(second, first, member, persons)
    assert one.value == -other.value
    for alpha in (0.001, 0.05, 0.3):
        assert one.lower(alpha) == pytest.approx(-other.upper(alpha), abs=1e-12)
        assert one.lower(alpha) <= one.value <= one.upper(alpha)
    assert one.lower(0.001) < one.lower(0.05) < one.lower(0.3)


def test_persons_of_one_record_each_are_independent_records():
    first, second, _ = drawn(np.random.default_rng(5), 50, 0.5, 0.2, 0.1)
    assert gain(first, second, np.arange(50)).only_first.n == 50.0
    assert gain(first, second, np.arange(50) // 5).only_first.n <= 50.0


# --- the member list --------------------------------------------------------------------------------------------------


def data_file(path: Path, rows: np.ndarray, persons: np.ndarray | None = None) -> str:
    """Records `rows` of one fixed population of noise: what a model knows of it, it has learned by heart."""
    x = np.random.default_rng(0).normal(size=(4000, 6))
    y = np.random.default_rng(1).integers(0, 2, size=4000)
    arrays = {"x": x[rows], "y": y[rows]}
    if persons is not None:
        arrays["person"] = persons[rows]
    np.savez(path, **arrays)
    return str(path)


def loaded(folder: Path, members: np.ndarray, nonmembers: np.ndarray, persons: np.ndarray | None = None):
    folder.mkdir(parents=True, exist_ok=True)
    config = DataManifest.model_validate(
        {
            "members": data_file(folder / "m.npz", members, persons),
            "nonmembers": data_file(folder / "n.npz", nonmembers, persons),
            "person": None if persons is None else "person",
        }
    )
    dataset = manifest.load(config, folder, lambda uri: Path(uri))
    people = None if persons is None else persons[np.concatenate([members, nonmembers])].astype(str)
    return dataset, people


PEOPLE = np.array([f"person {i // 2}" for i in range(4000)])


@pytest.mark.parametrize("persons", [None, PEOPLE])
def test_a_member_list_comes_back_and_tells_nobody_by_name(persons, tmp_path):
    dataset, people = loaded(tmp_path, np.arange(100), np.arange(100, 200), persons)
    made = member_list(dataset, people, KEY, "7" * 64)
    assert made.kind == ("record" if persons is None else "person")
    assert len(made.digests) == (100 if persons is None else 50)
    path = baseline.save(made, tmp_path / "members.npz")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"person 1" not in path.read_bytes()
    back = baseline.read(path)
    assert np.array_equal(back.digests, made.digests)
    assert (back.kind, back.key_id, back.model_sha256, back.complete) == (made.kind, made.key_id, "7" * 64, True)
    rows = [row.tobytes() for row in back.digests]
    assert rows == sorted(set(rows)), "the order of a list must not be that of the records"


def test_the_same_people_have_the_same_pseudonyms_in_every_run_of_one_key(tmp_path):
    one, p1 = loaded(tmp_path / "1", np.arange(100), np.arange(100, 200), PEOPLE)
    two, p2 = loaded(tmp_path / "2", np.arange(50, 150), np.arange(300, 400), PEOPLE)
    first, second = (member_list(d, p, KEY, "") for d, p in ((one, p1), (two, p2)))
    common = {r.tobytes() for r in first.digests} & {r.tobytes() for r in second.digests}
    assert len(common) == 25  # rows 50..99 are 25 people
    other = member_list(one, p1, KEY[::-1], "")
    assert not {r.tobytes() for r in first.digests} & {r.tobytes() for r in other.digests}
    assert other.key_id != first.key_id


def test_a_sample_of_the_members_is_no_complete_list(tmp_path):
    dataset, people = loaded(tmp_path, np.arange(100), np.arange(100, 200))
    assert not member_list(replace(dataset, train_size=101), people, KEY, "").complete


def test_dropped_copies_leave_the_list_complete(tmp_path):
    """A record on both sides is left out of both. For one of them a model was never compared in pairs again."""
    dataset, people = loaded(tmp_path, np.arange(100), np.arange(99, 200))
    assert (dataset.members, dataset.train_size, sum(dataset.removed.values())) == (99, 100, 2)
    assert member_list(dataset, people, KEY, "").complete
    assert not member_list(replace(dataset, train_size=102), people, KEY, "").complete
    assert not member_list(replace(dataset, sampled={Role.MEMBERS: (98, 99)}), people, KEY, "").complete
    assert member_list(replace(dataset, sampled={Role.MEMBERS: (99, 99)}), people, KEY, "").complete


def test_a_person_column_is_not_forgotten(tmp_path):
    dataset, _ = loaded(tmp_path, np.arange(100), np.arange(100, 200), PEOPLE)
    with pytest.raises(ValueError, match="person column"):
        member_list(dataset, None, KEY, "")


def test_labels_of_any_type_are_the_same_label():
    assert baseline._label(1) == baseline._label(1.0) == baseline._label(True) != baseline._label("1.0")


@pytest.mark.parametrize(
    "arrays",
    [
        {"digests": np.zeros((2, 16), dtype=np.uint8)},
        {
            "digests": np.zeros((2, 15), dtype=np.uint8),
            "kind": np.array("person"),
            "key_id": np.zeros(16, np.uint8),
            "model_sha256": np.array("7"),
            "complete": np.array(True),
        },
        {
            "digests": np.zeros((2, 16), dtype=np.uint8),
            "kind": np.array("pet"),
            "key_id": np.zeros(16, np.uint8),
            "model_sha256": np.array("7"),
            "complete": np.array(True),
        },
    ],
)
def test_something_else_is_no_member_list(arrays, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match="not a member list"):
        baseline.read(tmp_path / "x.npz")


def test_a_key_that_can_be_guessed_is_refused():
    assert pseudonym_key({}) is None
    assert pseudonym_key({"PRIVACY_GATE_PSEUDONYM_KEY": "x" * 16}) == b"x" * 16
    with pytest.raises(UsageError, match="has 6 bytes"):
        pseudonym_key({"PRIVACY_GATE_PSEUDONYM_KEY": "secret"})


# --- the anchor -------------------------------------------------------------------------------------------------------


@dataclass
class World:
    """A registry with `churn`: version 1, a regression, and version 2, a full tree, trained on overlapping people."""

    registry: Registry
    folder: Path
    models: dict[int, object]

    def report(self, version: int, verdict: str = "pass", digest: str | None = None) -> Path:
        """A report about that version, with the sample's figures."""
        work = self.folder / f"report{version}{verdict}{digest}"
        work.mkdir(exist_ok=True)
        about = digest or self.registry.resolve(f"models:/churn/{version}", work).digest
        report = SAMPLES[verdict]()
        report = report.model_copy(update={"subject": report.subject.model_copy(update={"digest": about})})
        (work / "report.json").write_text(document.dumps(document.seal(report)))
        return work / "report.json"


MEMBERS = {1: np.arange(300), 2: np.arange(100, 400)}
NONMEMBERS = {1: np.arange(600, 900), 2: np.concatenate([np.arange(0, 50), np.arange(800, 1050)])}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression
    from sklearn.tree import DecisionTreeClassifier

    folder = tmp_path_factory.mktemp("models")
    made = {}
    for version, estimator in ((1, LogisticRegression()), (2, DecisionTreeClassifier(random_state=0))):
        with np.load(data_file(folder / "train.npz", MEMBERS[version])) as arrays:
            made[version] = estimator.fit(arrays["x"], arrays["y"])
        mlflow.sklearn.save_model(
            made[version], str(folder / f"v{version}"), pip_requirements=[], serialization_format="cloudpickle"
        )
    return folder, made


@pytest.fixture
def world(models, tmp_path):
    folder, made = models
    registry = InMemoryRegistry()
    registry.add("churn", folder / "v1", "champion")
    registry.add("churn", folder / "v2", "candidate")
    return World(registry, tmp_path, made)


@pytest.fixture
def sandboxed() -> None:
    """The anchor is scored in a process of its own, as in a real run."""


@pytest.fixture(autouse=True)
def in_process(request, monkeypatch):
    """Elsewhere in this one: a process for each test would take minutes."""
    if "sandboxed" in request.fixturenames:
        return

    def examine(candidate, features, workdir, *, form, logs=None, runtime=None):
        import mlflow.sklearn

        model = mlflow.sklearn.load_model(str(candidate.snapshot))
        outputs = Outputs(model.predict_proba(np.asarray(features)), form.kind)
        return Description("sklearn", "classifier", tuple(model.classes_), None), Scored(outputs, True, 0.0, workdir)

    monkeypatch.setattr(baseline, "examine", examine)


def approve(world: World, version: int, verdict: str = "pass", people: bool = False, **changes) -> None:
    """As the end of a gate run does it: report and member list go to the evidence run."""
    candidate = world.registry.resolve(f"models:/churn/{version}", world.folder / "a")
    files, restricted = [world.report(version, verdict)], []
    if changes.pop("listed", True):
        persons = PEOPLE if people else None
        dataset, text = loaded(world.folder / f"data{version}", MEMBERS[version], NONMEMBERS[version], persons)
        path = world.folder / "members.npz"
        baseline.save(member_list(dataset, text, changes.pop("key", KEY), candidate.digest), path)
        restricted = [path]
    report = RecordedReport(verdict, candidate.digest, "p" * 64, files=files, restricted=restricted)
    world.registry.record(candidate, replace(report, **changes))


def subject(world: World, version: int = 2, people: bool = False) -> Subject:
    candidate = world.registry.resolve(f"models:/churn/{version}", world.folder / "c")
    persons = PEOPLE if people else None
    dataset, text = loaded(world.folder / f"audit{version}", MEMBERS[version], NONMEMBERS[version], persons)
    labels = manifest.encode(dataset.raw_labels, (0, 1))
    target = Outputs(world.models[version].predict_proba(dataset.features), "probabilities")
    return Subject(candidate, dataset, text, manifest.audit(dataset, labels, (0, 1)), target, (0, 1), Form(target.kind))


def compared(world: World, found: Anchor, of: Subject | None = None, **changes):
    given = {"outcomes": (), "attacks": ATTACKS, "seed": 0, "work": world.folder / "w", "key": KEY} | changes
    return baseline.regression(found, of or subject(world), **given)


def find(world: World, reference: str = "models:/churn@champion") -> Anchor:
    return anchor(reference, world.registry, world.folder / "w")


def test_an_approved_version_brings_its_report_and_its_members(world):
    approve(world, 1)
    found = find(world)
    assert found.notes == ()
    assert found.report is not None
    assert found.members is not None
    assert found.members.model_sha256 == found.digest == found.model.digest


def test_a_version_that_never_passed_is_no_quiet_anchor(world):
    approve(world, 1, verdict="fail")
    assert "never approved: its own verdict is fail" in find(world).notes[0]
    assert "never approved" in compared(world, find(world)).note


def test_a_version_without_evidence_is_said_to_have_none(world):
    found = find(world)
    assert "no evidence" in found.notes[0]
    assert (found.report, found.members) == (None, None)


def test_a_report_about_another_model_is_not_used(world):
    candidate = world.registry.resolve("models:/churn/1", world.folder / "a")
    foreign = world.report(1, digest="0" * 64)
    world.registry.record(candidate, RecordedReport("pass", candidate.digest, "p" * 64, files=[foreign]))
    found = find(world)
    assert found.report is None
    assert "about another model" in found.notes[0]


def test_a_member_list_about_another_model_is_not_used(world):
    candidate = world.registry.resolve("models:/churn/1", world.folder / "a")
    dataset, _ = loaded(world.folder / "d", MEMBERS[1], NONMEMBERS[1])
    path = baseline.save(member_list(dataset, None, KEY, "0" * 64), world.folder / "members.npz")
    world.registry.record(candidate, RecordedReport("pass", candidate.digest, "p" * 64, restricted=[path]))
    found = find(world)
    assert found.members is None
    assert any("member list" in note and "another model" in note for note in found.notes)


def test_a_reference_that_is_none_is_a_usage_error(world, tmp_path):
    with pytest.raises(CandidateNotFound):
        find(world, "models:/churn@nobody")
    with pytest.raises(UsageError, match="No such file"):
        find(world, str(tmp_path / "report.json"))
    changed = tmp_path / "changed.json"
    changed.write_text(world.report(1).read_text().replace('"seed": 0', '"seed": 1').replace("adult", "hacked"))
    with pytest.raises(UsageError, match="changed after it was written"):
        find(world, str(changed))


# --- the comparison ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("people", [False, True])
def test_both_models_are_attacked_on_the_same_people(people, world, sandboxed):
    approve(world, 1, people=people)
    found = compared(world, find(world), subject(world, people=people))
    assert (found.paired, found.note, found.reference) == (True, "", "models:/churn/1")
    # Members of both: rows 100..299; of neither: 800..1049. 0..49 are no members now and were of version 1.
    assert (found.members, found.nonmembers) == ((100, 125) if people else (200, 250))
    names = [name for name, _ in found.differences]
    assert names == [
        "correctness",
        *(f"{id}, known-subset, {scope}" for id in ("confidence", "modified_entropy") for scope in Scope),
    ]
    # On noise a full tree answers 1.0 for its own records and is at chance elsewhere; a regression learns nothing.
    worst = max(found.differences, key=lambda d: d[1].value)[1]
    assert worst.lower(0.05) > 0.1
    assert worst.value <= 0.35


def test_the_differences_are_what_the_people_in_common_say(world):
    """correctness by hand: a member is called one when the model is right about them."""
    approve(world, 1)
    given = subject(world)
    found = dict(compared(world, find(world), given).differences)["correctness"]
    rows = np.concatenate([np.arange(100, 300), np.arange(800, 1050)])
    with np.load(data_file(world.folder / "x.npz", rows)) as arrays:
        right = {v: model.predict(arrays["x"]) == arrays["y"] for v, model in world.models.items()}
    member = np.arange(450) < 200
    accuracy = {v: (r[member].mean() + 1 - r[~member].mean()) / 2 for v, r in right.items()}
    assert found.value == pytest.approx(accuracy[2] - accuracy[1], abs=1e-12)


def test_the_order_of_the_answers_classes_is_the_candidates(world):
    """The anchor's columns are turned to the candidate's order: class 1 first here."""
    approve(world, 1)
    given = subject(world)
    turned = replace(
        given,
        classes=(1, 0),
        target=Outputs(np.ascontiguousarray(given.target.values[:, ::-1]), "probabilities"),
        audit=manifest.audit(given.dataset, manifest.encode(given.dataset.raw_labels, (1, 0)), (1, 0)),
    )
    one, other = (dict(compared(world, find(world), s).differences) for s in (given, turned))
    # Confidence and correctness do not depend on the order; thresholds per class are only listed in another order.
    assert {name: d.value for name, d in one.items()} == pytest.approx({name: d.value for name, d in other.items()})


def test_other_classes_cannot_be_paired(world):
    approve(world, 1)
    given = replace(subject(world), classes=("yes", "no"))
    found = compared(world, find(world), given)
    assert not found.paired
    assert "cannot be scored on these records" in found.note


def stored_outcome(accuracy: float) -> AttackResult:
    measured = Stored(accuracy, accuracy - 0.01, accuracy + 0.01, 0.05)
    empty = np.zeros(0)
    return AttackResult(
        "lira", "reference", ThreatModel.REFERENCE, Scope.GLOBAL, True, measured, measured, None, {}, empty, empty > 0
    )


def test_what_takes_more_than_one_models_answers_is_compared_by_its_stored_figures(world, sandboxed):
    """None is dropped in silence: an attack that learns may be the one that a new model is weak against."""
    approve(world, 1)
    lira = stored_outcome(0.7)
    outcomes = (lira, replace(lira, id="boosting", threat_model=ThreatModel.KNOWN_SUBSET))
    found = compared(world, find(world), outcomes=outcomes, attacks=[*ATTACKS, "boosting", "noise_robustness"])
    assert found.paired
    assert [name for name, _ in found.differences if name.startswith("lira")] == ["lira, reference, global"]
    assert "lira need more than one model's answers: the stored figures are compared, unpaired" in found.note
    assert "boosting could not be compared: no report of the reference has them" in found.note


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"listed": False}, "no member list"),
        ({"key": KEY[::-1]}, "made with another PRIVACY_GATE_PSEUDONYM_KEY"),
        ({"people": True}, "do not both name persons"),
    ],
)
def test_without_a_list_the_stored_report_is_compared(change, why, world):
    approve(world, 1, **change)
    found = compared(world, find(world), outcomes=(stored_outcome(0.7),))
    assert not found.paired
    assert why in found.note
    assert "unpaired" in found.note
    [(name, difference)] = found.differences
    assert name == "lira, reference, global"
    before = next(a.metrics.accuracy for a in SAMPLES["pass"]().attacks if a.id == "lira")
    assert difference.value == pytest.approx(0.7 - before.value)
    # MOVER of the two intervals at the level at which both are stored.
    assert difference.lower(0.05) == pytest.approx(
        difference.value - math.hypot(0.01, before.high - before.value), abs=1e-12
    )


def test_without_the_key_the_list_cannot_be_read(world):
    approve(world, 1)
    assert "PRIVACY_GATE_PSEUDONYM_KEY is not set" in compared(world, find(world), key=None).note


def test_too_few_people_in_common_are_not_compared(world, monkeypatch):
    approve(world, 1)
    monkeypatch.setattr(baseline, "FEWEST_PERSONS", 201)
    found = compared(world, find(world))
    assert not found.paired
    assert "too few people are members of both models or of neither (200 and 250" in found.note


def test_with_nothing_to_compare_nothing_is_said_to_be_equal(world):
    found = compared(world, find(world), outcomes=(stored_outcome(0.7),))
    assert found.differences == ()
    assert "nothing was compared" in found.note


def test_a_report_alone_is_compared_unpaired(world):
    found = compared(world, find(world, str(world.report(1))), outcomes=(stored_outcome(0.7),))
    assert not found.paired
    assert len(found.differences) == 1
    assert "only a report was given" in found.note
    assert "could not be compared" not in found.note
    more = (stored_outcome(0.7), replace(stored_outcome(0.7), id="boosting"))
    missed = compared(world, find(world, str(world.report(1))), outcomes=more)
    assert missed.differences[0][0] == found.differences[0][0]
    assert "boosting could not be compared: no report of the reference has them" in missed.note


def test_the_model_itself_has_not_changed(world):
    approve(world, 2)
    found = compared(world, find(world, "models:/churn/2"), outcomes=(stored_outcome(0.7),))
    [(_, difference)] = found.differences
    assert (difference.value, difference.lower(0.01), difference.upper(0.01)) == (0.0, 0.0, 0.0)
    assert "this very model" in found.note


def test_a_list_of_a_part_of_the_members_pairs_nobody(world):
    """People of the training set who are not on the list would count as strangers to the reference."""
    approve(world, 1)
    found = find(world)
    partial = compared(world, replace(found, members=replace(found.members, complete=False)))
    assert not partial.paired
    assert "a part of its training set" in partial.note


def test_attacks_that_need_references_are_compared_by_their_stored_figures(world):
    approve(world, 1)
    found = find(world)
    with_lira = compared(world, found, outcomes=(stored_outcome(0.9),))
    assert with_lira.paired
    in_report = "lira, reference, global" in baseline.stored_accuracies(found.report)
    assert ("lira, reference, global" in dict(with_lira.differences)) == in_report
    assert "lira" in with_lira.note


def test_the_same_defence_stands_before_both(world):
    """With the label alone, only the top class is left of either model."""
    from privacy_gate.defences import configure

    approve(world, 1)
    label_only = configure({"output_coarsening": {"label_only": True}})
    found = dict(compared(world, find(world), defences=label_only).differences)
    plain = dict(compared(world, find(world)).differences)
    assert found["correctness"].value == plain["correctness"].value
    assert found["confidence, known-subset, global"].value != plain["confidence, known-subset, global"].value


def test_an_audit_without_persons_is_one_record_each(tmp_path):
    dataset, _ = loaded(tmp_path, np.arange(100), np.arange(100, 200))
    audit = manifest.audit(dataset, manifest.encode(dataset.raw_labels, (0, 1)), (0, 1))
    part = baseline._part(audit, np.array([3, 1, 150]))
    assert isinstance(part, Audit)
    assert part.member.tolist() == [True, True, False]
    assert sorted(part.persons.tolist()) == [0, 1, 2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_champion_in_mlflow_is_found_with_its_people(models, tmp_path):
    """Approved, aliased, and met again by a later candidate: all of it through a real MLflow."""
    import mlflow

    uri = embedded_registry(tmp_path)
    with tracking(uri):
        for model in models[1].values():
            with mlflow.start_run():
                mlflow.sklearn.log_model(
                    model,
                    name="model",
                    pip_requirements=[],
                    registered_model_name="churn",
                    serialization_format="cloudpickle",
                )
        mlflow.MlflowClient().set_registered_model_alias("churn", "champion", "1")
    world = World(open_registry(uri, None), tmp_path, models[1])
    approve(world, 1, data_sha256="d" * 64, references="s", seed=0, exit_code=0)
    found = find(world)
    assert found.notes == ()
    result = compared(world, found)
    assert (result.paired, result.members, result.nonmembers, result.note) == (True, 200, 250, "")
    assert attempt_number(world.registry.attempts(found.model).attempts, "d" * 64, 0, "s") == 1
    assert attempt_number(world.registry.attempts(found.model).attempts, "d" * 64, 1, "s") == 2
    assert attempt_number(world.registry.attempts(subject(world).candidate).attempts, "d" * 64, 1, "s") == 1
