"""From a real registry to an exit code: what each verdict rests on, what is recorded of it, and what can change it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from privacy_gate.reports.document import Report
from tests.e2e.conftest import FEATURES, PERSONS, ROWS_PER_PERSON, Here, Run, Team, people
from tests.mlflow_server import tracking

RECORDS = PERSONS * ROWS_PER_PERSON


def registry_state(team: Team, name: str, version: str) -> tuple[list[Any], dict[str, str]]:
    """Runs of the gate's experiment, and the tags of a model version."""
    import mlflow

    with tracking(team.uri):
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name("privacy-gate")
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        return runs, dict(client.get_model_version(name, version).tags)


# --- a leak ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_forest_that_memorised_is_refused(leaky: Run) -> None:
    assert leaky.code == 1, leaky.stderr
    report = leaky.document()
    assert (report.verdict.status, report.verdict.exit_code) == ("fail", 1)
    broken = [rule for rule in report.rules if rule.status == "fail"]
    assert broken
    for rule in broken:
        assert rule.limit is not None
        assert rule.low is not None
        assert rule.low > rule.limit  # proven, not estimated
        assert rule.location is not None
    assert report.data is not None
    assert (report.data.members.n, report.data.members.persons) == (RECORDS, PERSONS)
    assert report.verdict.valid_until is None
    assert "FAIL" in leaky.said
    assert broken[0].id in leaky.said


def test_stdout_is_empty_by_default(leaky: Run) -> None:
    assert leaky.stdout == ""
    assert {path.name for path in leaky.out.iterdir()} == {"report.json", "report.html", "report.md"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in leaky.out.iterdir())


def test_the_evidence_is_in_the_registry(team: Team, leaky: Run) -> None:
    import mlflow

    report = leaky.document()
    assert report.run.mlflow is not None
    runs, tags = registry_state(team, "tiny", "1")
    (run,) = [run for run in runs if run.info.run_id == report.run.mlflow.run_id]
    assert run.info.status == "FINISHED"
    assert tags["privacy_gate.verdict"] == "fail"
    assert tags["privacy_gate.run_id"] == run.info.run_id
    assert tags["privacy_gate.model_sha256"] == report.subject.digest
    assert report.policy is not None
    assert tags["privacy_gate.policy_sha256"] == report.policy.digest
    assert run.data.params["model"] == "models:/tiny/1"
    assert run.data.params["seed"] == "0"
    assert run.data.params["shadows"] == "4"
    for rule in report.rules:
        if rule.value is not None:
            assert run.data.metrics[f"privacy/{rule.id}_{rule.metric}"] == rule.value
    with tracking(team.uri):
        client = mlflow.MlflowClient()
        files = {item.path.rpartition("/")[2] for item in client.list_artifacts(run.info.run_id, "privacy-gate")}
        copy = client.download_artifacts(run.info.run_id, "privacy-gate/report.json", str(leaky.out.parent))
    assert {"report.json", "report.html"} <= files
    assert without_run(Path(copy).read_bytes()) == without_run((leaky.out / "report.json").read_bytes())


def without_run(text: bytes) -> Any:
    return {key: value for key, value in json.loads(text).items() if key != "run"}


@pytest.mark.slow
def test_exit_zero_excuses_a_violation_and_says_so(here: Here, team: Team, store: Path, leaky: Run) -> None:
    before = registry_state(team, "tiny", "1")
    run = here("check", "--store", store, "--exit-zero", "--no-mlflow-log")
    assert run.code == 0
    report = run.document()
    assert (report.verdict.status, report.verdict.exit_code, report.verdict.exit_zero) == ("fail", 0, True)
    assert any("--exit-zero" in warning for warning in report.warnings)
    assert "--exit-zero: the policy is violated" in run.said
    assert "--exit-zero" in (run.out / "report.html").read_text()
    assert "--exit-zero" in (run.out / "report.md").read_text()
    assert report.run.cache.trained == 0
    assert report.run.cache.cached == 4
    # Everything else is what it was without the flag.
    assert [rule.status for rule in report.rules] == [rule.status for rule in leaky.document().rules]
    assert report.attacks == leaky.document().attacks
    # --no-mlflow-log
    assert report.run.mlflow is None
    after = registry_state(team, "tiny", "1")
    assert len(after[0]) == len(before[0])
    assert after[1] == before[1]


def test_rendering_again_gives_the_same_bytes(here: Here, leaky: Run, tmp_path: Path) -> None:
    run = here("report", leaky.out / "report.json", "--out", tmp_path / "again")
    assert run.code == 0
    assert run.stdout == ""
    for name in ("report.html", "report.md"):
        assert (tmp_path / "again" / name).read_bytes() == (leaky.out / name).read_bytes()
    printed = here("report", leaky.out / "report.json", "--format", "json", "--out", "-")
    assert printed.stdout == (leaky.out / "report.json").read_text()


# --- no proof -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def unproven(team: Team, store: Path, plain: str) -> Run:
    """A harmless model, with too few persons to prove it."""
    return team.gate("check", plain, "--store", store, "--jobs", 1, "--no-mlflow-log", "--exit-zero", out="unproven")


@pytest.mark.slow
def test_a_harmless_model_does_not_pass_without_evidence(unproven: Run) -> None:
    assert unproven.code == 4, unproven.stderr  # --exit-zero does not excuse what was not shown
    report = unproven.document()
    assert (report.verdict.status, report.verdict.exit_code) == ("inconclusive", 4)
    assert report.verdict.valid_until is None
    assert not [rule for rule in report.rules if rule.status == "fail"]
    undecided = [rule for rule in report.rules if rule.status == "inconclusive"]
    assert undecided
    assert all(count > PERSONS for rule in undecided for count in rule.needed.values())
    assert any(rule.needed for rule in undecided)
    assert not any("--exit-zero" in warning for warning in report.warnings)


def test_exit_zero_excuses_no_failure(here: Here, team: Team) -> None:
    team.write_config("unreachable.yaml", tracking_uri="http://127.0.0.1:9")
    run = here("check", "-c", "unreachable.yaml", "--exit-zero")
    assert run.code == 3
    assert run.document().verdict.exit_code == 3


@pytest.mark.slow
def test_a_defence_that_only_the_registry_knows_of_forbids_a_pass(
    here: Here, team: Team, plain: str, store: Path, unproven: Run, tmp_path: Path
) -> None:
    import mlflow

    with tracking(team.uri):
        version = plain.rpartition("/")[2]
        mlflow.MlflowClient().set_model_version_tag("plain", version, "defence", "memguard")
    # Limits that this model is within: without the finding it would pass.
    (team.folder / "loose.yaml").write_text(
        "apiVersion: privacy-gate/v1\nextends: internal\nrules:\n"
        + "".join(f"  PG{n}: {{max: 0.99}}\n" for n in (101, 102, 103, 104, 201, 203, 204))
    )
    arguments = [plain, "--policy", "loose.yaml", "--store", store, "--no-mlflow-log"]
    tagged = here("check", *arguments)
    with tracking(team.uri):
        mlflow.MlflowClient().delete_model_version_tag("plain", version, "defence")
    untagged = here("check", *arguments, out=tmp_path / "untagged")
    (finding,) = [f for f in tagged.document().validity if f.check == "undeclared_defence"]
    assert (finding.status, finding.invalidates) == ("fail", "pass")
    assert "memguard" in finding.reason
    (finding,) = [f for f in untagged.document().validity if f.check == "undeclared_defence"]
    assert finding.status == "pass"
    assert untagged.code == 0, untagged.stderr
    assert untagged.document().verdict.valid_until is not None
    assert tagged.code == 4, tagged.stderr
    assert tagged.document().verdict.valid_until is None


# --- what changes the evidence --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_with_a_defence_both_attackers_are_judged(here: Here, team: Team, store: Path, leaky: Run) -> None:
    team.write_config("defended.yaml", defence={"output_coarsening": {"decimals": 1}})
    run = here("check", "-c", "defended.yaml", "--store", store, "--no-mlflow-log")
    report = run.document()
    assert report.run.cache.trained == 0  # the store keeps what shadows answered before any defence
    assert report.defence is not None
    assert report.defence.id == "output_coarsening"
    views = {(attack.threat_model, attack.adaptive) for attack in report.attacks if attack.id == "modified_entropy"}
    assert views == {("shadow", True), ("shadow", False), ("known-subset", True)}
    assert {attack.adaptive for attack in report.attacks if attack.id == "lira"} == {True, False}
    assert {attack.adaptive for attack in leaky.document().attacks} == {True}


@pytest.mark.slow
def test_records_that_pass_for_persons_look_like_more_evidence_than_they_are(
    here: Here, team: Team, leaky: Run
) -> None:
    team.write_config("records.yaml", data={"person": None, "drop": ["person"]})
    run = here("check", "-c", "records.yaml", "--no-mlflow-log")
    by_record, by_person = run.document(), leaky.document()
    assert by_record.data is not None
    assert by_record.data.members.persons is None
    assert by_record.data.members.n == RECORDS
    # `correctness` sees the same answers of the same model in both runs: one value, but rows of one person are not
    # independent, so the honest interval is the wider one.
    one, other = (metrics(report, "correctness") for report in (by_record, by_person))
    assert one.accuracy.value == other.accuracy.value
    assert one.accuracy.high - one.accuracy.low < other.accuracy.high - other.accuracy.low
    assert by_record.risk is not None
    assert by_person.risk is not None
    assert by_record.risk.high[0].members > PERSONS >= by_person.risk.high[0].members


def metrics(report: Report, attack: str) -> Any:
    return next(a.metrics for a in report.attacks if a.id == attack)


def test_no_person_straddles_a_shadow(here: Here, team: Team, tmp_path: Path) -> None:
    from privacy_gate.build import build
    from privacy_gate.closing import known
    from privacy_gate.preparation import Silent, prepare
    from privacy_gate.terms import settle

    plans = {}
    for name, data in {"persons": {}, "records": {"person": None, "drop": ["person"]}}.items():
        config = team.write_config(f"{name}.yaml", data=data)
        request = build(config=config)
        work = tmp_path / name
        work.mkdir()
        terms = settle(request)
        ready = prepare(request, terms, work, known(request, terms.policy), Silent())
        assert ready.plan is not None
        plans[name] = ready.plan.member
        if name == "persons":
            persons = ready.dataset.persons
    # [S, P] the share of each person's records in each shadow
    for name, member in plans.items():
        share = np.stack([np.bincount(persons, weights=row) / np.bincount(persons) for row in member])
        assert np.isin(share, (0, 1)).all() == (name == "persons")
        assert member.sum(axis=1).tolist() == [RECORDS] * 4


# --- plan -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_plan_tells_what_is_cached_and_what_cannot_be_decided(
    here: Here, team: Team, store: Path, leaky: Run, tmp_path: Path
) -> None:
    fresh = here("plan", "--store", tmp_path / "fresh", "--json")
    assert list((tmp_path / "fresh" / "shadows").iterdir()) == []
    before = json.loads(fresh.stdout)
    assert (before["shadows"], before["cached"], before["train_size"]) == (4, 0, RECORDS)
    assert before["model"] == "models:/tiny/1"
    assert (before["member_persons"], before["nonmember_persons"]) == (PERSONS, PERSONS)
    after = here("plan", "--store", store)
    assert "4 in the store, 0 to train" in after.said
    assert after.stdout == ""
    # 150 persons a side cannot show a TPR within 1 % at an FPR of 0.1 %.
    assert "PG104" in before["undecidable"]
    assert fresh.code == after.code == 4
    assert "CANNOT" in after.said


# --- other shadows --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_disjoint_plan_needs_and_uses_a_population(here: Here, team: Team) -> None:
    team.write_config("disjoint.yaml", shadows={"plan": "disjoint"})
    alone = here("check", "-c", "disjoint.yaml", "--no-mlflow-log")
    assert alone.code == 2
    assert "population" in alone.said
    frame = pd.concat([people(20_000, 3), people(30_000, 4)])
    frame.to_csv(team.folder / "population.csv", index=False)
    team.write_config("disjoint.yaml", shadows={"plan": "disjoint"}, data={"population": "population.csv"})
    run = here("check", "-c", "disjoint.yaml", "--no-mlflow-log")
    report = run.document()
    assert run.code in (1, 4), run.stderr
    assert report.shadows is not None
    assert (report.shadows.plan, report.shadows.count, report.shadows.train_size) == ("disjoint", 4, RECORDS)
    assert report.data is not None
    assert report.data.population is not None
    assert report.data.population.n == len(frame)
    # No reference model ever saw an audited record: LiRA is left with its models of non-members, and runs.
    assert {attack.status for attack in report.attacks if attack.id == "lira"} == {"executed"}
    assert report.shadows.accuracy_in is not None
    assert report.shadows.accuracy_in > 0.9  # full-depth forests on their own halves of the population


@pytest.mark.slow
def test_shadows_that_somebody_else_trained(here: Here, team: Team, tmp_path: Path) -> None:
    from sklearn.ensemble import RandomForestClassifier

    sides = [pd.read_csv(team.folder / f"{side}.csv") for side in ("members", "nonmembers")]
    records = pd.concat(sides, ignore_index=True)
    rng = np.random.default_rng(0)
    chosen = np.array([rng.permutation(np.arange(2 * PERSONS) % 2 == 0) for _ in range(2)])
    member = np.concatenate([chosen, ~chosen]).repeat(ROWS_PER_PERSON, axis=1)  # each person in two, out of two
    probs = np.stack(
        [
            RandomForestClassifier(10, random_state=s)
            .fit(records.loc[mask, FEATURES], records.loc[mask, "sick"])
            .predict_proba(records[FEATURES])
            for s, mask in enumerate(member)
        ]
    )
    np.savez(team.folder / "shadows.npz", probs=probs, member=member)
    team.write_config("loaded.yaml", shadows={"recipe": {"load": "shadows.npz"}})
    run = here("check", "-c", "loaded.yaml", "--no-mlflow-log", "--store", tmp_path / "store")
    assert run.code == 1, run.stderr
    report = run.document()
    assert report.shadows is not None
    assert (report.shadows.plan, report.shadows.count) == ("loaded", 4)
    assert report.shadows.accuracy_in is not None
    assert report.shadows.accuracy_in > 0.9
    assert list((tmp_path / "store" / "shadows").iterdir()) == []
    assert {attack.status for attack in report.attacks if attack.id == "lira"} == {"executed"}

    with contextlib.suppress(FileNotFoundError):
        (team.folder / "shadows.npz").unlink()
    gone = here("check", "-c", "loaded.yaml", "--no-mlflow-log", out=tmp_path / "gone")
    assert gone.code == 2
    assert "shadows.npz" in gone.said
    assert not (gone.out / "report.json").exists()
