"""The page of examples/typed_frame, from top to bottom: what it says to do is done, what it quotes is printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from privacy_gate.policy.load import resolve
from tests.examples.guides import ROOT, Hour, require_small, small_walk, walked

HOME = ROOT / "examples" / "typed_frame"

AT_NIGHT = ("privacy-gate explain",)  # the small form leaves them out


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hour]:
    with walked("typed_frame", tmp_path_factory.mktemp("visits")) as found:
        yield found


@pytest.mark.slow
def test_in_the_small_form_first_refused_and_then_mended(tmp_path: Path) -> None:
    with small_walk("typed_frame", tmp_path, skipped=AT_NIGHT) as hour:
        assert len(hour.done) == 10
        require_small(hour, "PG101")


@pytest.mark.nightly
def test_every_command_ends_and_prints_as_the_page_says(hour: Hour) -> None:
    assert len(hour.done) > 10
    for one in hour.done:
        assert one.code in one.command.ends, f"{one.command.line}\n{one.said}"
        assert one.as_quoted, f"{one.command.line}\n" + "\n".join(one.command.quoted) + f"\n--- printed\n{one.said}"


@pytest.mark.nightly
def test_first_refused_and_then_mended(hour: Hour) -> None:
    refused, mended = hour["privacy-gate check"]
    assert {id for id, status in refused.rules.items() if status == "fail"} >= {"PG101", "PG103", "PG201", "PG302"}
    assert {id for id, status in mended.rules.items() if status not in ("pass", "not_applicable")} == {"PG104"}
    for one in (refused, mended):
        assert one.report is not None
        assert all(check.status != "fail" for check in one.report.validity)
        # The search looked at the members, and no shadow repeats it: said, not measured.
        assert any("search" in text for text in one.report.limitations)


@pytest.mark.nightly
def test_the_columns_have_types_and_persons_several_rows(hour: Hour) -> None:
    sets = [pd.read_parquet(hour.folder / "data" / f"{name}.parquet") for name in ("train", "holdout")]
    kinds = {str(dtype) for dtype in sets[0].dtypes}
    assert kinds == {"category", "bool", "int64", "float64", "Int64"}
    for table in sets:
        assert table["patient_id"].duplicated().any()
        assert table["health"].cat.categories.tolist() == ["excellent", "good", "fair", "poor"]
        assert 0 < table["education"].isna().sum() < table["health_index"].isna().sum() < len(table) / 2
    assert not set(sets[0]["patient_id"]) & set(sets[1]["patient_id"])


@pytest.mark.nightly
def test_the_page_shows_the_draft(hour: Hour) -> None:
    page = (HOME / "README.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(page.split("```\n  label:")[1].join(["  label:", ""]).split("```")[0])
    for key, value in shown.items():
        drafted = hour.draft["data"][key]
        assert {name: drafted[name] for name in value} == value if isinstance(value, dict) else drafted == value


@pytest.mark.nightly
def test_the_files_beside_the_page_are_those_of_the_reader(hour: Hour) -> None:
    for name in ("privacy-gate.yaml", "privacy-policy.yaml"):
        ours, theirs = (yaml.safe_load((place / name).read_text(encoding="utf-8")) for place in (HOME, hour.folder))
        assert ours == theirs


@pytest.mark.nightly
def test_the_policy_says_what_the_records_can_decide(hour: Hour) -> None:
    policy = resolve(HOME / "privacy-policy.yaml")
    (rule,) = [rule for rule in policy.rules if rule.id == "PG104"]
    (standard,) = [rule for rule in resolve("standard").rules if rule.id == "PG104"]
    assert (rule.settings.action, standard.settings.action) == ("warn", "block")
    assert rule.settings.max == standard.settings.max
    (plan,) = hour["privacy-gate plan"]
    assert "cannot prove a violation (about 7,492 non-members needed)" in " ".join(plan.said.split())
    assert "2,954 persons" in rule.settings.reason
    assert "7,492" in rule.settings.reason
    own = ("PG104", "PG201")
    assert [r for r in policy.rules if r.id not in own] == [r for r in resolve("standard").rules if r.id not in own]
    (wider,) = [rule.settings for rule in policy.rules if rule.id == "PG201"]
    assert (wider.max, wider.action) == (0.02, "block")
