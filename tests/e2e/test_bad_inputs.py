"""What bad input gets: the right exit code, a sentence that says what, where and the mend, and nothing half-written."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest

from privacy_gate.reports.document import parse
from tests.e2e import strange_models
from tests.e2e.conftest import FEATURES, Here, Run, Team, register
from tests.mlflow_server import tracking

REPORT_FILES = {"report.json", "report.html", "report.md"}


def shown_once(run: Run, *parts: str) -> None:
    """Every part is in the message, the mend is there, and no traceback."""
    for part in parts:
        assert part in run.said, run.stderr
    assert "hint: " in run.said, run.stderr
    assert "Traceback" not in run.stderr
    assert "unexpected" not in run.stderr
    assert run.stdout == ""


def whole_files_only(run: Run) -> None:
    left = {path.name for path in run.out.iterdir()} if run.out.is_dir() else set()
    assert left - {"previous"} <= REPORT_FILES


def refused(run: Run, *parts: str) -> None:
    """Exit 2: the caller's mistake. Nothing was evaluated, so there is no report."""
    assert run.code == 2, run.stderr
    shown_once(run, *parts)
    assert not (run.out / "report.json").exists()
    whole_files_only(run)


def ended(run: Run, code: int, *parts: str, kind: str) -> None:
    """Exit 3 or 4 before there was evidence: a valid report that says so, and names the error."""
    assert run.code == code, run.stderr
    shown_once(run, *parts)
    report = run.document()
    assert report.verdict.status == {3: "error", 4: "inconclusive"}[code]
    assert report.verdict.exit_code == code
    assert [error.type for error in report.errors] == [kind]
    assert " ".join(report.errors[0].what.split()) in run.said
    assert report.errors[0].hint
    assert report.verdict.valid_until is None
    assert {path.name for path in run.out.iterdir()} - {"previous"} == REPORT_FILES


# --- the registry ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("models:/tyni@candidate", ["no registered model is called 'tyni'", "tiny"]),
        ("models:/tiny@canditate", ["model 'tiny' has no alias 'canditate'", "candidate"]),
        ("models:/tiny/99", ["model 'tiny' has no version 99", "its latest version is"]),
        ("models:/tiny/", ["models:/tiny"]),
        ("runs:/0123456789abcdef0123456789abcdef/model", ["no run 0123456789abcdef0123456789abcdef"]),
        ("nowhere/at/all", ["nowhere/at/all"]),
    ],
)
def test_no_such_model(here: Here, uri: str, parts: list[str]) -> None:
    refused(here("check", uri), *parts)


def test_an_unreachable_registry(here: Here, team: Team) -> None:
    team.write_config("unreachable.yaml", tracking_uri="http://127.0.0.1:9")
    began = time.monotonic()
    run = here("check", "-c", "unreachable.yaml")
    # MLflow's own defaults (7 retries with exponential backoff) take over four minutes; the gate sets 2.
    assert time.monotonic() - began < 100
    ended(run, 3, "http://127.0.0.1:9", kind="RegistryUnreachable")


def test_no_tracking_uri(here: Here, team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = team.write_config("nowhere.yaml", tracking_uri=None)
    monkeypatch.chdir(tmp_path)
    refused(here("check", "-c", config), "tracking_uri")
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "mlruns").exists()


def test_a_database_that_does_not_exist(here: Here, team: Team) -> None:
    team.write_config("absent.yaml", tracking_uri="sqlite:///absent.db")
    refused(here("check", "-c", "absent.yaml"), "sqlite:///absent.db: there is no such database")
    assert not (team.folder / "absent.db").exists()


# --- the configuration ----------------------------------------------------------------------------------------------


def test_no_configuration_at_all(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in (["check", "models:/tiny@candidate"], ["check"], ["plan"]):
        refused(here(*line), "no configuration: which records were members?", "privacy-gate.yaml")


@pytest.mark.parametrize(
    ("changes", "place", "parts"),
    [
        ({"attacks": ["lira", "modified_entropie"]}, "modified_entropie", ["did you mean 'modified_entropy'?"]),
        ({"defence": {"coarsening": {"decimals": 1}}}, "coarsening", ["did you mean 'output_coarsening'?"]),
        ({"defence": {"output_coarsening": {"decimal": 1}}}, "decimal: 1", ["did you mean 'decimals'?"]),
        ({"defence": {"output_coarsening": {"decimals": -1}}}, "-1", ["decimals", "greater than or equal to 0"]),
        ({"defence": {"output_coarsening": {}}}, "{}", ["set at least one of temperature"]),
        ({"shadow": {"count": 4}}, "shadow:", ["did you mean 'shadows'?"]),
        ({"shadows": {"timeout": "soon"}}, "soon", ["shadows.timeout", "not a duration"]),
        ({"data": {"member": "members.csv"}}, "member:", ["data.member", "did you mean 'members'?"]),
    ],
)
def test_a_mistake_in_the_config_is_shown_where_it_stands(
    here: Here, team: Team, changes: dict[str, Any], place: str, parts: list[str]
) -> None:
    path = team.write_config("mistaken.yaml", **changes)
    run = here("check", "-c", "mistaken.yaml")
    assert run.code == 2, run.stderr
    for part in parts:
        assert part in run.said
    found = re.search(r"mistaken\.yaml:(\d+):(\d+): error\[", run.said)
    assert found, run.stderr
    assert path.read_text().splitlines()[int(found[1]) - 1][int(found[2]) - 1 :].startswith(place)
    assert "Traceback" not in run.stderr
    assert not run.out.exists()


@pytest.mark.parametrize(
    ("policy", "parts"),
    [
        ("apiVersion: privacy-gate/v1\nextends: standard\nrules:\n  PG999: {max: 0.1}\n", [":4:3: error[", "PG999"]),
        (
            "apiVersion: privacy-gate/v1\nextends: standard\nrules:\n  PG101: {max: 0.55}\n  PG101: {max: 0.99}\n",
            [":5:3: error[duplicate-key]", "PG101", "line 4"],
        ),
        ("", [":1:1: error[empty]"]),
        (None, ["there is no such file"]),
        ("rules: [\n", [":2:1: error[yaml]"]),
    ],
)
def test_a_mistake_in_the_policy(here: Here, tmp_path: Path, policy: str | None, parts: list[str]) -> None:
    path = tmp_path / "policy.yaml"
    if policy is not None:
        path.write_text(policy)
    run = here("check", "--policy", path)
    assert run.code == 2, run.stderr
    for part in ["policy.yaml", *parts]:
        assert part in run.said
    assert "Traceback" not in run.stderr
    assert not run.out.exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--profile", "strickt"], ["--profile", "strict"]),
        (["--suite", "quick"], ["--suite", "fast"]),
        (["--format", "htlm"], ["htlm", "did you mean 'html'?"]),
        (["--policy", "p.yaml", "--profile", "strict"], ["--policy and --profile exclude each other"]),
        (["--observations", "o.npz", "--config", "c.yaml"], ["--observations", "--config has no meaning"]),
        (["models:/tiny@candidate", "--observations", "o.npz"], ["--observations", "model has no meaning"]),
    ],
)
def test_options_that_do_not_fit(here: Here, arguments: list[str], parts: list[str]) -> None:
    refused(here("check", *arguments), *parts)


def test_a_report_folder_that_is_a_file_is_found_before_anything_is_trained(here: Here, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    run = here("check", out=tmp_path / "taken")
    assert run.code == 2
    assert "taken" in run.said
    assert "resolving" not in run.said
    assert (tmp_path / "taken").read_text() == "mine"


# --- the records ----------------------------------------------------------------------------------------------------


@pytest.fixture
def with_data(here: Here, team: Team) -> Callable[..., Run]:
    """Check the candidate with other tables than the team's."""

    def run(
        members: pd.DataFrame | None = None, nonmembers: pd.DataFrame | None = None, *arguments: object, **changes: Any
    ) -> Run:
        data = dict(changes.pop("data", {}))
        for side, frame in {"members": members, "nonmembers": nonmembers}.items():
            if frame is not None:
                frame.to_csv(team.folder / f"other-{side}.csv", index=False)
                data[side] = f"other-{side}.csv"
        team.write_config("other.yaml", data=data, **changes)
        return here("check", *arguments, "-c", "other.yaml")

    return run


@pytest.fixture
def members(team: Team) -> pd.DataFrame:
    return pd.read_csv(team.folder / "members.csv")


@pytest.fixture
def nonmembers(team: Team) -> pd.DataFrame:
    return pd.read_csv(team.folder / "nonmembers.csv")


def test_no_members(with_data: Callable[..., Run], members: pd.DataFrame) -> None:
    ended(with_data(members=members[:0]), 4, "there are no members", "data.members", kind="NotEvaluable")


def test_no_nonmembers(with_data: Callable[..., Run], nonmembers: pd.DataFrame) -> None:
    ended(with_data(nonmembers=nonmembers[:0]), 4, "there are no nonmembers", "data.nonmembers", kind="NotEvaluable")


def test_debug_shows_the_stack_and_writes_the_report_all_the_same(
    with_data: Callable[..., Run], members: pd.DataFrame
) -> None:
    run = with_data(members[:0], None, "--debug")
    assert run.code == 4
    assert "Traceback (most recent call last)" in run.stderr
    assert run.document().verdict.status == "inconclusive"


def test_a_registry_that_takes_no_evidence_is_told_of(
    with_data: Callable[..., Run], members: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    from privacy_gate.errors import RegistryUnreachable
    from privacy_gate.registry.mlflow import MlflowRegistry

    def gone(*_: object) -> None:
        raise RegistryUnreachable("the server went away", "is it up?")

    monkeypatch.setattr(MlflowRegistry, "record", gone)
    run = with_data(members=members[:0])
    ended(run, 4, "nothing was written back: the server went away", kind="NotEvaluable")
    logged = run.document().run.mlflow
    assert logged is not None
    assert logged.run_id is None


def test_every_nonmember_is_a_person_of_the_members(with_data: Callable[..., Run], members: pd.DataFrame) -> None:
    run = with_data(nonmembers=members.assign(age=0.5))
    ended(run, 4, "no nonmembers are left", "300 non-members sharing a person", kind="NotEvaluable")


@pytest.mark.parametrize(("value", "parts"), [(np.inf, ["'age' has 1 infinite"]), (np.nan, ["'age' has 1 missing"])])
def test_values_that_are_none(
    with_data: Callable[..., Run], members: pd.DataFrame, value: float, parts: list[str]
) -> None:
    members.loc[7, "age"] = value
    refused(with_data(members=members), "other-members.csv", *parts)


def test_a_missing_label(with_data: Callable[..., Run], members: pd.DataFrame) -> None:
    members.loc[7, "sick"] = None
    refused(with_data(members=members), "other-members.csv: 1 labels are missing")


def test_another_file_than_was_agreed_on(with_data: Callable[..., Run]) -> None:
    run = with_data(data={"members": {"path": "members.csv", "sha256": "0" * 64}})
    refused(run, "members.csv: sha256 is", "the manifest says 000000")


def test_files_and_columns_that_are_not_there(with_data: Callable[..., Run]) -> None:
    refused(with_data(data={"members": "membres.csv"}), "membres.csv: no such file")
    refused(with_data(data={"label": "ill"}), "no label column 'ill'", "columns are: trait, age, bmi, sick, person")
    refused(with_data(data={"person": "patient"}), "no person column 'patient'")


def test_a_table_that_is_none(with_data: Callable[..., Run], team: Team) -> None:
    (team.folder / "empty.csv").write_text("")
    refused(with_data(data={"members": "empty.csv"}), "empty.csv: cannot be read")
    (team.folder / "noise.npz").write_bytes(b"PK\x03\x04 but no archive")
    refused(with_data(data={"members": "noise.npz"}), "noise.npz: not a readable .npz")


def test_a_label_that_is_no_class(with_data: Callable[..., Run], members: pd.DataFrame) -> None:
    members.loc[:4, "sick"] = "perhaps"
    run = with_data(members=members)
    refused(run, "5 labels are out of range: perhaps not among the classes no, yes", "data.classes")


def test_a_class_without_nonmembers(with_data: Callable[..., Run], nonmembers: pd.DataFrame) -> None:
    run = with_data(nonmembers=nonmembers[nonmembers["sick"] == "yes"])
    ended(run, 4, "class no has no non-members", kind="NotEvaluable")


def test_wrong_columns(with_data: Callable[..., Run], members: pd.DataFrame, nonmembers: pd.DataFrame) -> None:
    run = with_data(members.assign(extra=1.0), nonmembers.assign(extra=1.0))
    refused(run, "the model takes 3 feature columns, the data has 4", "data: drop")


# --- the candidate --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strange(team: Team) -> Callable[[type], str]:
    """Register an estimator of tests/e2e/strange_models.py; returns its URI."""
    members = pd.read_csv(team.folder / "members.csv")
    cloudpickle.register_pickle_by_value(strange_models)

    def registered(kind: type) -> str:
        name = kind.__name__.lower()
        model = kind().fit(members[FEATURES], members["sick"])
        return f"models:/{name}/{register(team, name, model)}"

    return registered


@pytest.mark.parametrize(
    ("kind", "code", "parts"),
    [
        (strange_models.NotANumber, 3, ["NaN or infinity for 3 of 600 records"]),
        (strange_models.Unnormalised, 3, ["600 of 600 answers are not probabilities", "output: logits"]),
        (strange_models.Constant, 4, ["same answer"]),
    ],
)
def test_answers_that_are_none(
    here: Here, strange: Callable[[type], str], kind: type, code: int, parts: list[str]
) -> None:
    error = {3: "ModelOutputUnusable", 4: "NotEvaluable"}[code]
    ended(here("check", strange(kind), "--no-mlflow-log"), code, *parts, kind=error)


def test_a_model_of_other_features(here: Here, strange: Callable[[type], str]) -> None:
    run = here("check", strange(strange_models.Narrow), "--no-mlflow-log")
    refused(run, "the model takes 2 feature columns, the data has 3")


def test_classes_that_do_not_fit_the_columns(strange: Callable[[type], str], with_data: Callable[..., Run]) -> None:
    uri = strange(strange_models.ThreeColumns)  # like a torch module, it has columns and no class names
    run = with_data(None, None, uri, data={"classes": ["no", "yes"]})
    refused(run, "2 classes are declared, the model answers with 3 columns", "data.classes")
    run = with_data(None, None, uri)
    refused(run, "600 labels are out of range: no, yes not among the classes 0, 1, 2", "data.classes")


def test_a_regression_model(here: Here, team: Team) -> None:
    from sklearn.linear_model import LinearRegression

    members = pd.read_csv(team.folder / "members.csv")
    register(team, "line", LinearRegression().fit(members[FEATURES], members["sick"] == "yes"))
    refused(here("check", "models:/line@candidate"), "regress", "classif")


# --- the evidence ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_duplicates_make_even_a_leak_inadmissible(
    with_data: Callable[..., Run], members: pd.DataFrame, nonmembers: pd.DataFrame
) -> None:
    copied = members[:40].assign(person=range(20_000, 20_040))
    run = with_data(None, pd.concat([nonmembers, copied]), "--no-mlflow-log")
    assert run.code == 4, run.stderr
    report = run.document()
    # 40 records of either side, of the 640 that were given
    assert report.data.removed == {"exact duplicates across members and non-members": 80}
    (finding,) = [f for f in report.validity if f.check == "duplicates"]
    assert (finding.status, finding.invalidates, finding.value) == ("fail", "both", 80 / 640)
    assert report.verdict.status == "inconclusive"
    assert "80 of 640 records (12 %) are in both sets" in finding.reason
    assert "duplicates" in run.said


@pytest.mark.slow
def test_fewer_records_than_the_policy_needs(
    with_data: Callable[..., Run], plain: str, members: pd.DataFrame, nonmembers: pd.DataFrame
) -> None:
    run = with_data(members[::2][:40], nonmembers[::2][:40], plain, "--no-mlflow-log")
    assert run.code == 4, run.stderr
    report = run.document()
    assert report.verdict.status == "inconclusive"
    assert report.data.members.n == report.data.nonmembers.n == 40
    undecided = {rule.id: rule for rule in report.rules if rule.status == "inconclusive"}
    assert "PG103" in undecided
    needed = undecided["PG103"].needed
    assert needed
    assert all(count > 40 for count in needed.values())
    assert any(f"{count:,}" in undecided["PG103"].reason for count in needed.values())
    assert any(f"{count:,}" in run.said for rule in undecided.values() for count in rule.needed.values())


# --- the recipe -----------------------------------------------------------------------------------------------------

HEADER = (
    "import os, time\nfrom sklearn.ensemble import RandomForestClassifier\n\ndef train(features, labels, *, seed):\n"
)


@pytest.fixture
def with_recipe(team: Team, here: Here, tmp_path: Path) -> Callable[..., Run]:
    """Check with shadows that a function of this body trains."""

    def run(body: str, **shadows: Any) -> Run:
        (team.folder / "strange.py").write_text(HEADER + f"    {body}\n")
        settings = {"count": 2, "retries": 0, "recipe": {"python": "strange.py:train"}, **shadows}
        team.write_config("strange.yaml", shadows=settings)
        done = here("check", "-c", "strange.yaml", "--store", tmp_path / "store", "--no-mlflow-log", "--jobs", 1)
        assert list((tmp_path / "store" / "shadows").iterdir()) == []
        assert list((tmp_path / "store" / "work").iterdir()) == []  # training records stay nowhere
        return done

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "shadows", "kind", "parts"),
    [
        (
            "raise ValueError('no beds left')",
            {},
            "RecipeFailed",
            ["raised ValueError", "strange.py:5", "logs/shadows-"],
        ),
        ("return None", {}, "ModelOutputUnusable|RecipeFailed", ["shadow 0", "NoneType"]),
        ("time.sleep(600)", {"timeout": "3s"}, "RecipeFailed", ["not trained within 3 s", "shadows.timeout"]),
        ("os.kill(os.getpid(), 9)", {}, "WorkerDied", ["the worker of shadow 0 died 1 times"]),
    ],
)
def test_a_recipe_that_does_not_train(
    with_recipe: Callable[..., Run], body: str, shadows: dict[str, Any], kind: str, parts: list[str]
) -> None:
    run = with_recipe(body, **shadows)
    assert run.report["errors"][0]["type"] in kind.split("|")
    ended(run, 3, *parts, kind=run.report["errors"][0]["type"])


# --- the disk -------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[None]:
    """A file system of that size at `folder`; skips where this user may not mount one."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_the_disk_of_the_store_is_full(here: Here, team: Team, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    with small_disk(store / "shadows", 24):  # two shadows of 10.4 kB and no third
        run = here("check", "--store", store, "--no-mlflow-log", "--jobs", 1)
        ended(run, 3, "No space left", "free some space", kind="StorageFailed")
        kept = list((store / "shadows").iterdir())
        assert len(kept) == 2
        assert all(path.suffix == ".npz" and not path.name.startswith(".") for path in kept)
        assert here("shadows", "verify", "--store", store).code == 0
    assert list((store / "work").iterdir()) == []


def test_the_disk_of_the_store_is_full_before_the_first_record(here: Here, tmp_path: Path) -> None:
    with small_disk(tmp_path / "store", 16):
        run = here("check", "--store", tmp_path / "store")
        ended(run, 3, "No space left", "free some space", kind="StorageFailed")


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """This process cannot write larger files for a while: what a full disk does, without a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores SIGXFSZ: the write fails with EFBIG
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_disk_of_the_report_is_full(here: Here, observations: Path, tmp_path: Path) -> None:
    command = ["check", "--observations", observations, "--format", "html", "--format", "markdown"]
    with files_up_to(10_000):
        run = here(*command)
    assert run.code == 3
    shown_once(run, "report.json", "free some space")
    assert list(run.out.iterdir()) == []
    whole = here(*command)
    before = {path.name: path.read_bytes() for path in whole.out.iterdir()}
    assert set(before) == REPORT_FILES
    with files_up_to(10_000):
        again = here(*command)
    assert again.code == 3
    # The earlier report belongs to an earlier run: it was set aside, and no part of a new one is there.
    assert [path.name for path in whole.out.iterdir()] == ["previous"]
    assert {path.name: path.read_bytes() for path in (whole.out / "previous").iterdir()} == before
    # Room for one of the two but not for the other: an older page beside a newer verdict would be a lie.
    with files_up_to((len(before["report.json"]) + len(before["report.html"])) // 2):
        half = here(*command, "--seed", 1)
    assert half.code == 3
    whole_files_only(half)
    if (half.out / "report.json").exists():
        assert half.document().seed == 1
    assert not (half.out / "report.html").exists()


# --- predictions alone ----------------------------------------------------------------------------------------------


def predictions(n: int = 60, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for side in ("member", "nonmember"):
        arrays[f"target_{side}_probs"] = rng.dirichlet([1, 1, 1], n)
        arrays[f"target_{side}_labels"] = np.arange(n) % 3
    return arrays


@pytest.fixture
def observations(tmp_path: Path) -> Path:
    path = tmp_path / "predictions.npz"
    np.savez(path, **predictions())
    return path


def replaced(**arrays: Any) -> dict[str, Any]:
    return {**predictions(), **arrays}


def changed(name: str, change: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    arrays = predictions()
    return {**arrays, name: change(arrays[name].copy())}


def with_first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.flat[0] = value
        return array

    return change


P, L = "target_member_probs", "target_member_labels"


@pytest.mark.parametrize(
    ("arrays", "code", "parts"),
    [
        (changed(P, with_first(np.nan)), 3, ["1 rows that are not finite"]),
        (changed(P, with_first(-0.5)), 3, ["not distributions"]),
        (changed(P, lambda p: 2 * p), 3, ["not distributions", "logits"]),
        ({k: v for k, v in predictions().items() if k != L}, 2, [f"no array {L}"]),
        ({}, 2, ["no array target_member_probs"]),
        (changed(P, lambda p: p[:, 0]), 2, [P, "(60,)"]),
        (changed(P, lambda p: p[:-1]), 2, [P, "(59, 3)", "(60,)"]),
        (changed(P, lambda p: np.concatenate([p, 0 * p], axis=1)), 2, ["6", "3", "columns"]),
        (changed(P, lambda p: p.astype(str)), 2, [P, "<U"]),
        (changed(L, with_first(3)), 2, ["labels out of range 0..2"]),
        (changed(L, with_first(-1)), 2, ["labels out of range 0..2"]),
        (changed(L, lambda y: y.astype(float)), 2, [f"{L} are float64"]),
        (changed(P, lambda p: p[:0]) | changed(L, lambda y: y[:0]) | {P: np.zeros((0, 3))}, 4, ["no member records"]),
        (changed(L, lambda y: y % 2), 4, ["class 2 has no members"]),
        (predictions(n=9), 4, ["9 members are too few; at least 10"]),
        (replaced(target_member_persons=np.arange(60)), 2, ["target_nonmember_persons"]),
        (replaced(target_member_persons=np.arange(60), target_nonmember_persons=np.zeros((60, 1))), 2, ["persons"]),
        (replaced(shadow_member_probs=np.full((5, 3), 1 / 3)), 2, ["no array shadow_member_labels"]),
        (
            {
                **predictions(),
                **{
                    f"shadow_{s}_{w}": a
                    for s in ("member", "nonmember")
                    for w, a in {"probs": np.full((30, 2), 0.5), "labels": np.arange(30) % 2}.items()
                },
            },
            2,
            ["shadow has 2 classes, target 3"],
        ),
        (replaced(reference_signals=np.zeros((4, 120))), 2, ["reference_signals and reference_member go together"]),
        (
            replaced(reference_signals=np.zeros((4, 60)), reference_member=np.zeros((4, 60), bool)),
            2,
            ["[S, 120]", "(4, 60)"],
        ),
        (
            replaced(reference_signals=np.full((4, 120), np.nan), reference_member=np.eye(4, 120, dtype=bool)),
            3,
            ["reference_signals are not finite"],
        ),
        (
            replaced(reference_signals=np.zeros((4, 120)), reference_member=np.full((4, 120), 0.5)),
            2,
            ["reference_member", "float64"],
        ),
        (
            replaced(reference_signals=np.zeros((4, 120)).astype(str), reference_member=np.eye(4, 120, dtype=bool)),
            2,
            ["reference_signals", "<U"],
        ),
        (
            changed(P, lambda p: np.full_like(p, 1 / 3)) | {"target_nonmember_probs": np.full((60, 3), 1 / 3)},
            4,
            ["same"],
        ),
    ],
)
def test_predictions_that_cannot_be_judged(
    here: Here, tmp_path: Path, arrays: dict[str, Any], code: int, parts: list[str]
) -> None:
    path = tmp_path / "odd.npz"
    np.savez(path, **arrays)
    run = here("check", "--observations", path)
    if code == 2:
        refused(run, *parts)
    else:
        ended(run, code, *parts, kind={3: "ModelOutputUnusable", 4: "NotEvaluable"}[code])


def test_predictions_that_are_no_arrays(here: Here, tmp_path: Path) -> None:
    refused(here("check", "--observations", tmp_path / "absent.npz"), "absent.npz: no such file")
    (tmp_path / "text.npz").write_text("not an archive")
    refused(here("check", "--observations", tmp_path / "text.npz"), "text.npz: not a readable .npz")
    np.savez(tmp_path / "pickled.npz", **replaced(target_member_labels=np.array([{}] * 60, dtype=object)))
    refused(here("check", "--observations", tmp_path / "pickled.npz"), "pickled.npz: not a readable .npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    refused(here("check", "--observations", tmp_path / "single.npy"), "single.npy: not a readable .npz")


# --- hostile strings ------------------------------------------------------------------------------------------------

SCRIPT = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(1)>"
ESCAPE = "\x1b[31mred\x1b]0;owned\x07"
COMMAND = "\n::set-output name=verdict::pass"
OLD_COMMAND = "##[set-env name=X]y ##vso[task.complete result=Succeeded;]z"
HOSTILE = SCRIPT + IMAGE + ESCAPE + COMMAND + OLD_COMMAND


def inert(text: str) -> None:
    """Nothing in it steers a terminal, or is a command to GitHub's or Azure's log reader."""
    assert "\x1b" not in text
    assert "\x07" not in text
    assert not [line for line in text.splitlines() if line.lstrip().startswith("::")]
    assert "##[" not in text
    assert "##vso[" not in text


@pytest.mark.slow
def test_strings_of_strangers_are_inert_wherever_they_are_shown(
    team: Team, members: pd.DataFrame, nonmembers: pd.DataFrame, with_data: Callable[..., Run]
) -> None:
    import mlflow
    from sklearn.linear_model import LogisticRegression

    # Control characters in a label are cleaned away where the model's classes are read, so such labels are refused.
    labels = {"no": "no" + SCRIPT, "yes": "::set-output name=verdict::pass" + OLD_COMMAND + IMAGE}
    wards = (SCRIPT + COMMAND, ESCAPE + IMAGE)
    tables = [
        frame.assign(sick=frame["sick"].map(labels), ward=np.where(frame["age"] > 0, *wards))
        for frame in (members, nonmembers)
    ]
    name = "risk " + IMAGE
    version = register(team, name, LogisticRegression().fit(members[FEATURES], tables[0]["sick"]))
    with tracking(team.uri):
        client = mlflow.MlflowClient()
        client.set_model_version_tag(name, version, "defence", HOSTILE)
        client.set_registered_model_tag(name, "owner", HOSTILE)
    uri, data = f"models:/{name}/{version}", {"groups": ["ward"], "features": FEATURES}
    run = with_data(*tables, uri, data=data, defence={"output_coarsening": {"decimals": 2}})
    assert run.code in (1, 4), run.stderr
    report = run.document()
    assert report.risk is not None
    assert set(wards) < {group.value for group in report.risk.groups}  # they got as far as the report
    (finding,) = [f for f in report.validity if f.check == "undeclared_defence"]
    assert SCRIPT in finding.reason
    inert(run.stderr)
    inert((run.out / "report.md").read_text())
    for rendered in ((run.out / "report.html").read_text(), (run.out / "report.md").read_text()):
        assert "\x1b" not in rendered
        assert "\x07" not in rendered
        assert "<script>alert" not in rendered
        assert "<img" not in rendered
    assert "\x1b" not in (run.out / "report.json").read_text()

    # The same through the error of a run, and through one of the command line.
    absent = with_data(tables[0], tables[1][tables[1]["sick"] == labels["no"]], uri, data=data)
    assert absent.code == 4
    assert "set-output" in absent.stderr
    inert(absent.stderr)
    odd = with_data(tables[0], tables[1].assign(sick=HOSTILE), uri, data=data)
    assert odd.code == 2
    assert "set-output" in odd.stderr
    inert(odd.stderr)


@pytest.mark.slow
def test_a_model_that_prints_changes_nothing_and_stdout_stays_one_document(
    team: Team, leaky: Run, tmp_path: Path
) -> None:
    members = pd.read_csv(team.folder / "members.csv")
    cloudpickle.register_pickle_by_value(strange_models)
    forest = strange_models.ChattyForest(10, random_state=0).fit(members[FEATURES], members["sick"])
    version = register(team, "chatty", forest)
    arguments = [f"models:/chatty/{version}", "--store", tmp_path / "store", "--no-mlflow-log", "--format", "json=-"]
    run = team.gate("check", *arguments, "--jobs", 1, out="chatty")
    assert run.code == 1, run.stderr
    assert parse(run.stdout) == run.document()  # one JSON document and nothing else
    inert(run.stderr)
    assert "raw st" not in run.stderr
    assert [attack.metrics for attack in run.document().attacks] == [a.metrics for a in leaky.document().attacks]


# --- interrupted, or not listened to ----------------------------------------------------------------------------------


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_ctrl_c_half_way(team: Team, tmp_path: Path) -> None:
    (team.folder / "patient.py").write_text(
        HEADER + "    time.sleep(1)\n    return RandomForestClassifier(5, random_state=0).fit(features, labels)\n"
    )
    team.write_config("patient.yaml", shadows={"count": 8, "recipe": {"python": "patient.py:train"}})
    store, out = tmp_path / "store", tmp_path / "out"
    command = [sys.executable, "-m", "privacy_gate", "check", "-c", "patient.yaml", "--jobs", "1"]
    gate = subprocess.Popen(
        [*command, "--store", str(store), "--out", str(out)],
        cwd=team.folder,
        env=team.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(list((store / "shadows").glob("*.npz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(gate.pid, signal.SIGINT)  # as a terminal does: the gate and its workers
    stdout, stderr = gate.communicate(timeout=60)
    assert gate.returncode == 130, stderr
    assert "interrupted: finished shadows are kept" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    assert not (out / "report.json").exists()
    kept = [path.name for path in (store / "shadows").iterdir()]
    assert 2 <= len(kept) < 8
    assert all(name.endswith(".npz") and not name.startswith(".") for name in kept)
    assert list((store / "work").iterdir()) == []
    deadline = time.monotonic() + 30
    while alive(gate.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(gate.pid)


def test_nobody_reads_stdout(team: Team) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "privacy_gate", "attacks", "--json"]
    done = subprocess.run(command, cwd=team.folder, env=team.environment(), stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.returncode == 3  # not 1, which would say that the policy is violated
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
