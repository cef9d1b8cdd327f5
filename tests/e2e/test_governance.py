"""What people decide around a verdict: waivers, attempts, baselines, the annex, sign-offs, estimands."""

from __future__ import annotations

import contextlib
import datetime
import io
import math
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from privacy_gate.reports.document import Interval, Report, Rule
from tests.e2e.conftest import (
    FEATURES,
    PERSONS,
    ROWS_PER_PERSON,
    Examine,
    Here,
    Run,
    Team,
    people,
    register,
    spare_processes,
)
from tests.mlflow_server import tracking

KEY = {"PRIVACY_GATE_PSEUDONYM_KEY": "k3y-of-the-data-owner-0123456789abcdef"}
LIMIT = 0.65  # between what the two candidates of this file show, whose bounds leave room on both sides
NOW = datetime.datetime.now(datetime.UTC).date()
IN_FORCE = {"created": NOW.isoformat(), "expires": (NOW + datetime.timedelta(days=5)).isoformat()}
LONG_AGO = {"created": "2020-01-01", "expires": "2020-01-31"}
RECORDS = PERSONS * ROWS_PER_PERSON
Desk = Callable[..., Run]


@pytest.fixture(scope="module")
def desk(team: Team, store: Path, tmp_path_factory: pytest.TempPathFactory, examine_once: Examine) -> Desk:
    """`here` for runs that several tests look at: the same program, the same folder, shadows shared.

    Persons have names that can be searched for; the policy is one that a few records can decide.
    """
    for name, (start, seed) in {"patients": (0, 1), "others": (10_000, 2)}.items():
        frame = people(start, seed)
        frame["person"] = [f"patient-{number:05d}" for number in frame["person"]]
        frame["row"] = [f"row-{start + number:05d}" for number in range(len(frame))]
        frame.to_csv(team.folder / f"{name}.csv", index=False)
    data = {"members": "patients.csv", "nonmembers": "others.csv", "id": "row"}
    attacks = ["correctness", "modified_entropy"]
    team.write_config("governed.yaml", data=data, attacks=attacks)
    team.write_config("alone.yaml", data=data, attacks=["correctness"], shadows={"count": 0})  # enough for a waiver
    team.write_config("sample.yaml", data={**data, "train_size": 3 * RECORDS}, attacks=attacks)
    policy: dict[str, Any] = {
        "apiVersion": "privacy-gate/v1",
        "release_context": "internal",
        "waivers": {"max_days": 30, "approvers": 1},
        "rules": {
            "PG101": {"max": LIMIT, "action": "block", "severity": "high"},
            "PG401": {"max": 0.05, "action": "block", "severity": "high"},
            "PG501": {"attacks": ["correctness"], "action": "block", "severity": "high"},
        },
    }
    (team.folder / "governed-policy.yaml").write_text(yaml.safe_dump(policy))
    (team.folder / "census.yaml").write_text(yaml.safe_dump(policy | {"estimand": "artefact-census"}))

    def run(*arguments: object, out: Path | None = None, **environment: str) -> Run:
        from privacy_gate.cli import run as run_line

        folder = out or tmp_path_factory.mktemp("governed") / "out"
        line = [*map(str, arguments), "--store", str(store), "--out", str(folder), "--jobs", "1"]
        for option, file in (("--config", "governed.yaml"), ("--policy", "governed-policy.yaml")):
            line += [] if option in line else [option, file]
        told, said = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(team.folder)
            spare_processes(patch, examine_once)
            for name in [n for n in os.environ if n.startswith(("MLFLOW_", "PRIVACY_GATE_"))]:
                patch.delenv(name)
            patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
            for name, value in environment.items():
                patch.setenv(name, value)
            with contextlib.redirect_stdout(told), contextlib.redirect_stderr(said):
                code = run_line(line)
        return Run(code, told.getvalue(), said.getvalue(), folder)

    return run


def rule(report: Report, id: str) -> Rule:
    return next(rule for rule in report.rules if rule.id == id)


# --- waivers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forest(team: Team) -> str:
    """A candidate that memorises: its attack accuracy is far above the limit."""
    from sklearn.ensemble import RandomForestClassifier

    members = pd.read_csv(team.folder / "members.csv")
    fitted = RandomForestClassifier(10, random_state=5).fit(members[FEATURES], members["sick"])
    return f"models:/governed-forest/{register(team, 'governed-forest', fitted)}"


def waiver(id: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": id,
        "rule": "PG101",
        "scope": {"model": "governed-forest", "versions": "1"},
        "until_value": 0.95,
        "reason": "<b>pruned</b> in the next release, see the ticket\x1b[31m",
        "approved_by": ["Ann"],
        "ticket": "PRIV-1",
        **IN_FORCE,
        **changes,
    }


# Each would excuse the violation if one thing about it were otherwise.
POWERLESS: dict[str, tuple[str, dict[str, Any]]] = {
    "OLD": ("expired", LONG_AGO),
    "LOW": ("exceeded", {"until_value": LIMIT}),
    "NEXT": ("unused", {"scope": {"model": "governed-forest", "versions": ">1"}}),
    "OTHER": ("unused", {"scope": {"model": "governed", "versions": "1"}}),
    "LONG": ("refused", {"expires": (NOW + datetime.timedelta(days=31)).isoformat()}),
    "NUMBER": ("refused", {"expires": 20991231}),
}


def states(report: Report) -> dict[str, str]:
    assert report.waivers is not None
    given = report.waivers
    return {w.id: w.state for w in (*given.active, *given.expired, *given.unused, *given.refused)}


def waiver_file(team: Team, name: str, waivers: list[dict[str, Any]]) -> str:
    (team.folder / name).write_text(yaml.safe_dump({"apiVersion": "privacy-gate/waivers/v1", "waivers": waivers}))
    return name


@pytest.fixture(scope="module")
def waived(desk: Desk, team: Team, forest: str) -> Run:
    file = waiver_file(team, "granted.yaml", [waiver("W-1")])
    return desk("check", forest, "--config", "alone.yaml", "--waivers", file)


@pytest.fixture(scope="module")
def refused(desk: Desk, team: Team, forest: str, waived: Run) -> Run:
    """The same with nothing but waivers that have no effect; after it, so that the registry's last word is a fail."""
    powerless = [waiver(id, **changes) for id, (_, changes) in POWERLESS.items()]
    file = waiver_file(team, "powerless.yaml", powerless)
    return desk("check", forest, "--config", "alone.yaml", "--waivers", file)


@pytest.mark.slow
def test_a_waived_violation_passes_and_is_called_so(waived: Run, refused: Run) -> None:
    assert waived.code == 0, waived.stderr
    report = waived.document()
    assert (report.verdict.status, report.verdict.exit_code) == ("pass_with_waivers", 0)
    excused = rule(report, "PG101")
    assert (excused.status, excused.waiver) == ("waived", "W-1")
    assert excused.low is not None
    assert excused.low > LIMIT  # it is a violation: there is nothing else that the waiver could be about
    assert states(report) == {"W-1": "active"}
    assert "PASS WITH WAIVERS" in waived.said
    # What is measured is what is measured without it.
    assert report.attacks == refused.document().attacks


def test_the_reason_of_a_waiver_is_text_wherever_it_is_shown(waived: Run) -> None:
    html, markdown = ((waived.out / f"report.{kind}").read_text() for kind in ("html", "md"))
    for shown in (html, markdown):
        assert "pruned" in shown
        assert "<b>pruned" not in shown
    for shown in (html, markdown, waived.stderr, (waived.out / "report.json").read_text()):
        assert "\x1b[31m" not in shown


def test_a_waiver_without_effect_excuses_nothing_and_is_shown(refused: Run) -> None:
    assert refused.code == 1, refused.stderr
    report = refused.document()
    assert (report.verdict.status, report.verdict.exit_code) == ("fail", 1)
    assert rule(report, "PG101").status == "fail"
    assert states(report) == {id: state for id, (state, _) in POWERLESS.items()}
    assert "waiver OLD has no effect: expired at the end of 2020-01-31" in refused.said
    for kind in ("html", "md"):
        text = (refused.out / f"report.{kind}").read_text()
        assert [id for id in POWERLESS if id not in text] == []
        assert "expired" in text


def test_a_pass_ends_with_the_waiver_it_rests_on(waived: Run) -> None:
    valid_until = waived.document().verdict.valid_until
    assert valid_until is not None
    assert valid_until <= IN_FORCE["expires"]


# --- attempts ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def champion(team: Team) -> str:
    return _linear(team)


def _linear(team: Team, step: int = 1) -> str:
    """A candidate that hardly learns; every one has the same recipe, so the shadows are shared."""
    from sklearn.linear_model import LogisticRegression

    members = pd.read_csv(team.folder / "members.csv").iloc[::step]
    fitted = LogisticRegression(C=1e-3).fit(members[FEATURES], members["sick"])
    return f"models:/governed/{register(team, 'governed', fitted)}"


@pytest.fixture(scope="module")
def first(desk: Desk, champion: str) -> Run:
    return desk("check", champion, **KEY)


@pytest.fixture(scope="module")
def other_seed(desk: Desk, champion: str, first: Run) -> Run:
    return desk("check", champion, "--seed", 1, **KEY)


@pytest.fixture(scope="module")
def again(desk: Desk, champion: str, other_seed: Run) -> Run:
    """The first evaluation once more, after another one has spent something."""
    return desk("check", champion, **KEY)


def attempt(run: Run) -> tuple[int, float, float]:
    known = run.document().attempt
    assert known is not None
    assert known.alpha_pass is not None
    assert known.alpha_fail is not None
    return known.number, known.alpha_pass, known.alpha_fail


@pytest.mark.slow
def test_looking_again_with_another_seed_has_less_to_spend(first: Run, other_seed: Run) -> None:
    assert first.code == other_seed.code == 0, first.stderr + other_seed.stderr
    assert attempt(first) == (1, 0.05, 0.05)
    number, *levels = attempt(other_seed)
    assert number == 2
    assert levels == pytest.approx([0.05 * 6 / (math.pi**2 * 4)] * 2)
    # The level is used, not only told: no seed moves the only attack that has neither threshold nor folds.
    wide, narrow = (
        next(a.metrics for a in run.document().attacks if a.id == "correctness") for run in (other_seed, first)
    )
    assert wide is not None
    assert narrow is not None
    assert wide.accuracy.value == narrow.accuracy.value
    assert _high(other_seed) > _high(first)


def _high(run: Run) -> float:
    high = rule(run.document(), "PG101").high
    assert high is not None
    return high


def test_the_same_evaluation_again_is_the_same_attempt(first: Run, again: Run) -> None:
    assert attempt(again) == attempt(first)
    assert again.document().rules == first.document().rules
    assert again.document().verdict.headline == first.document().verdict.headline


def test_the_same_evaluation_again_is_the_same_report(first: Run, again: Run) -> None:
    """Else a sign-off of the one is none of the other."""
    assert again.document().integrity == first.document().integrity


# --- against the approved model, and the annex ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def challenger(team: Team, champion: str) -> str:
    return _linear(team, step=-1)


@pytest.fixture(scope="module")
def shared_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared") / "out"


@pytest.fixture(scope="module")
def paired(desk: Desk, challenger: str, champion: str, again: Run, shared_out: Path) -> tuple[Run, dict[str, Any]]:
    """A run with the key and an annex; what stood in its folder, since a later run uses it as well."""
    run = desk("check", challenger, "--baseline", champion, "--records", "restricted", out=shared_out, **KEY)
    annex = run.out / "restricted" / "records.parquet"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (run.out, annex.parent, annex)}
    texts = {path.name: path.read_bytes() for path in run.out.iterdir() if path.is_file()}
    return run, {"modes": modes, "texts": texts, "annex": pq.read_table(annex), "report": run.document()}


@pytest.fixture(scope="module")
def unpaired(desk: Desk, challenger: str, champion: str, paired: object, shared_out: Path) -> Run:
    """The same without the key and without an annex, into the same folder."""
    return desk("check", challenger, "--baseline", champion, "--no-mlflow-log", out=shared_out)


@pytest.mark.slow
def test_with_the_key_both_models_answer_for_the_same_people(paired: tuple[Run, dict[str, Any]], champion: str) -> None:
    report = paired[1]["report"]
    assert report.baseline is not None
    assert (report.baseline.reference, report.baseline.paired) == (champion, True)
    assert (report.baseline.members, report.baseline.nonmembers) == (PERSONS, PERSONS)
    assert report.baseline.reference_digest != report.subject.digest
    assert rule(report, "PG401").status == "pass"


def test_without_the_key_reports_are_compared_and_that_is_said(
    unpaired: Run, paired: tuple[Run, dict[str, Any]]
) -> None:
    report = unpaired.document()
    assert report.baseline is not None
    assert (report.baseline.paired, report.baseline.members, report.baseline.nonmembers) == (False, 0, 0)
    assert "PRIVACY_GATE_PSEUDONYM_KEY is not set" in report.baseline.note
    assert "PRIVACY_GATE_PSEUDONYM_KEY is not set" in unpaired.said
    # Pairing is worth something: the same two models, the same people, narrower bounds.
    sharp = {d.attack: d.accuracy for d in paired[1]["report"].baseline.differences}
    blunt = {d.attack: d.accuracy for d in report.baseline.differences}
    both = sharp.keys() & blunt.keys()
    assert both
    for attack in both:
        assert _width(sharp[attack]) < _width(blunt[attack])


def _width(interval: Interval) -> float:
    assert interval.low is not None
    assert interval.high is not None
    return interval.high - interval.low


def test_the_annex_is_for_its_owner_alone(paired: tuple[Run, dict[str, Any]]) -> None:
    kept = paired[1]
    assert kept["modes"] == {"out": 0o700, "restricted": 0o700, "records.parquet": 0o600}
    table = kept["annex"]
    assert table.num_rows == 2 * RECORDS
    for column in ("id", "person"):
        values = table.column(column).to_pylist()
        assert all(re.fullmatch("[0-9a-f]{24}", value) for value in values)
        assert len(set(values)) == {"id": 2 * RECORDS, "person": 2 * PERSONS}[column]
    assert table.column("set").to_pylist().count("member") == RECORDS


def test_no_id_and_no_pseudonym_leaves_the_annex(
    paired: tuple[Run, dict[str, Any]], team: Team, challenger: str
) -> None:
    run, kept = paired
    table = kept["annex"]
    pseudonyms = {value.encode() for column in ("id", "person") for value in table.column(column).to_pylist()}
    texts = {**kept["texts"], "stderr": run.stderr.encode(), "stdout": run.stdout.encode()}
    assert {"report.json", "report.html", "report.md"} <= texts.keys()
    logged = _artifacts(team, kept["report"])
    assert {"report.json", "members.npz"} <= {path.name for path in logged}  # and no records.parquet
    assert "records.parquet" not in {path.name for path in logged}
    for path in logged:
        texts[f"logged {path.name}"] = path.read_bytes()
        if path.name == "members.npz":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for name, text in texts.items():
        assert re.search(rb"patient-\d|row-\d{5}", text) is None, name
        assert KEY["PRIVACY_GATE_PSEUDONYM_KEY"].encode() not in text, name
        assert not any(pseudonym in text for pseudonym in pseudonyms), name


def _artifacts(team: Team, report: Report) -> list[Path]:
    """The files that the evidence run left in the registry, as they lie on the disk."""
    import mlflow

    assert report.run.mlflow is not None
    assert report.run.mlflow.run_id is not None
    with tracking(team.uri):
        place = mlflow.MlflowClient().get_run(report.run.mlflow.run_id).info.artifact_uri
    return [path for path in Path(str(place).removeprefix("file://")).rglob("*") if path.is_file()]


def test_the_next_run_removes_the_annex(paired: tuple[Run, dict[str, Any]], unpaired: Run) -> None:
    assert unpaired.out == paired[0].out
    assert list(unpaired.out.rglob("*.parquet")) == []


def test_a_run_that_never_began_leaves_an_earlier_report_out_of_reach(here: Here, tmp_path: Path) -> None:
    annex = tmp_path / "out" / "restricted" / "records.parquet"
    annex.parent.mkdir(parents=True)
    annex.write_bytes(b"of an earlier run")
    for name in ("report.json", "report.html", "attestation.json"):
        (tmp_path / "out" / name).write_text("of an earlier run")
    run = here("check", "--config", "misspelt.yaml", out=tmp_path / "out")
    assert run.code == 2
    assert "an earlier report is in" in run.said
    left = [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()]
    names = ("report.json", "report.html", "attestation.json", "restricted/records.parquet")
    assert sorted(map(str, left)) == sorted(f"previous/{name}" for name in names)


def test_an_annex_without_a_key_is_refused_before_anything_runs(here: Here) -> None:
    run = here("check", "-c", "privacy-gate.yaml", "--records", "restricted")
    assert run.code == 2
    assert "export PRIVACY_GATE_PSEUDONYM_KEY" in run.said
    assert "resolving" not in run.said
    assert not run.out.exists() or list(run.out.iterdir()) == []


def test_what_was_never_approved_is_no_anchor(desk: Desk, challenger: str, plain: str) -> None:
    run = desk("check", challenger, "--baseline", plain, "--no-mlflow-log")
    report = run.document()
    assert report.baseline is not None
    assert "approved" in report.baseline.note
    assert rule(report, "PG401").status == "inconclusive"


def test_a_later_refusal_does_not_undo_an_approval(
    desk: Desk, challenger: str, forest: str, waived: Run, refused: Run
) -> None:
    """The anchor is what was approved last, not what ran last."""
    run = desk("check", challenger, "--baseline", forest, "--no-mlflow-log")
    report = run.document()
    assert waived.code == 0
    assert report.baseline is not None
    assert "approved" not in report.baseline.note


# --- what people do with reports --------------------------------------------------------------------------------------


def test_a_decision_is_bound_to_the_report(here: Here, refused: Run, waived: Run, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_bytes((refused.out / "report.json").read_bytes())
    who = ["--name", "Ann", "--role", "DPO", "--decision"]
    assert here("signoff", report, *who, "approve").code == 2  # a violation is not approved without a word
    assert not (tmp_path / "signoff.json").exists()
    signed = here("signoff", report, *who, "reject", "--note", "prune it first")
    assert signed.code == 0, signed.stderr
    digest = refused.document().integrity.report_sha256
    assert f"verdict fail, report {digest[:12]}: prune it first" in here("signoff", report, "--list").stdout
    assert stat.S_IMODE((tmp_path / "signoff.json").stat().st_mode) == 0o600
    # The same list beside another report is about another report.
    report.write_bytes((waived.out / "report.json").read_bytes())
    assert f"another report, {digest[:12]}" in here("signoff", report, "--list").stdout
    # A report that was changed afterwards is not signed, nor a changed list believed.
    report.write_text((refused.out / "report.json").read_text().replace('"exit_code": 1', '"exit_code": 0'))
    assert here("signoff", report, *who, "approve", "--note", "it says 0").code == 2
    report.write_bytes((refused.out / "report.json").read_bytes())
    signoffs = tmp_path / "signoff.json"
    signoffs.write_text(signoffs.read_text().replace('"reject"', '"approve"'))
    assert here("signoff", report, "--list").code == 2


def test_diff_ends_with_1_for_a_regression_and_2_for_no_report(
    here: Here, first: Run, other_seed: Run, refused: Run
) -> None:
    clean, reseeded, leaky = (run.out / "report.json" for run in (first, other_seed, refused))
    same = here("diff", clean, clean)
    assert same.code == 0
    assert "same content" in same.stdout
    assert here("diff", clean, reseeded).code == 0  # noise
    worse = here("diff", clean, leaky)
    assert worse.code == 1
    assert "a pass became a failure" in worse.stdout
    assert here("diff", leaky, clean).code == 0  # better
    assert here("diff", clean, clean.with_name("nothing.json")).code == 2


# --- what the numbers are about ---------------------------------------------------------------------------------------


def test_a_sample_is_no_census(desk: Desk, champion: str, first: Run) -> None:
    run = desk("check", champion, "--config", "sample.yaml", "--policy", "census.yaml", "--no-mlflow-log")
    assert first.code == 0  # the model would pass
    assert run.code == 4, run.stderr
    report = run.document()
    assert (report.verdict.status, report.verdict.valid_until) == ("inconclusive", None)
    assert f"{RECORDS:,} of {3 * RECORDS:,} training records" in report.verdict.headline
    assert "estimand: artefact" in run.said  # what to do


def test_plan_knows_that_a_sample_is_no_census(here: Here, desk: Desk, champion: str) -> None:
    run = here("plan", champion, "--config", "sample.yaml", "--policy", "census.yaml")
    assert run.code == 4
    assert "census" in run.said or "all members" in run.said
