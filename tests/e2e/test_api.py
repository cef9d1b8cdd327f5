"""The Python API is the same street as the command line."""

from pathlib import Path

import pytest

import privacy_gate
from privacy_gate.errors import UsageError
from tests.e2e.conftest import Team


def test_five_lines_from_a_notebook(team: Team, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(team.folder)
    outcome = privacy_gate.check(
        "models:/tiny@candidate",
        config=Path("privacy-gate.yaml"),
        profile="standard",
        store=store,
        out=tmp_path / "out",
        mlflow_log=False,
    )
    assert outcome.exit_code == outcome.report.verdict.exit_code == 1
    assert outcome.report.verdict.headline
    assert outcome.paths["html"].is_file()


def test_what_ends_the_program_with_2_is_raised(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        privacy_gate.check(observations=tmp_path / "nowhere.npz", out=tmp_path / "out")
