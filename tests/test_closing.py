"""An earlier report is never taken for this run's, and never lost to a run that judged nothing."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from privacy_gate import cli
from privacy_gate.closing import PREVIOUS, set_aside
from privacy_gate.errors import StorageFailed

NAMES = ("report.json", "report.html", "report.md", "attestation.json", "restricted/records.parquet")


def reported(out: Path, text: str, names: tuple[str, ...] = NAMES) -> Path:
    for name in names:
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text} {name}")
        path.chmod(0o600)
    return out


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_all_that_belongs_to_a_report_goes_with_it(tmp_path: Path) -> None:
    out = reported(tmp_path / "out", "old")
    (out / "signoff.json").write_text("decisions")
    (out / "notes.txt").write_text("mine")
    assert set_aside(out) == out / PREVIOUS
    old = {f"{PREVIOUS}/{name}": f"old {name}" for name in NAMES}
    left = {**old, f"{PREVIOUS}/signoff.json": "decisions", "signoff.json": "decisions", "notes.txt": "mine"}
    assert files(out) == left
    assert set_aside(out) == out / PREVIOUS  # once more: there is nothing to move, and nothing is lost
    assert files(out) == left
    assert stat.S_IMODE((out / PREVIOUS).stat().st_mode) == 0o700
    # Nothing was judged since: what stands here now is no verdict, the one that waits is.
    reported(out, "of an error")
    set_aside(out)
    assert files(out) == left


def test_what_has_no_report_is_removed(tmp_path: Path) -> None:
    out = reported(tmp_path / "out", "old", NAMES[1:])
    assert set_aside(out) is None
    assert files(out) == {}
    assert set_aside(tmp_path / "nowhere") is None
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("at", range(7))
def test_an_interruption_anywhere_loses_nothing_and_leaves_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    out = reported(tmp_path / "out", "old")
    (out / "signoff.json").write_text("decisions")
    steps = iter(range(100))

    class Killed(BaseException):
        pass

    def counted(name: str) -> None:
        real = getattr(Path, name)

        def step(self: Path, target: Path) -> object:
            if next(steps) == at:
                raise Killed
            return real(self, target)

        monkeypatch.setattr(Path, name, step)

    with monkeypatch.context():
        counted("replace")
        counted("rename")
        if at < 6:  # five files, one folder
            with pytest.raises(Killed):
                set_aside(out)
            assert not (out / "report.json").exists() or at == 0
    monkeypatch.undo()
    assert set_aside(out) == out / PREVIOUS
    assert {name: (out / PREVIOUS / name).read_text() for name in NAMES} == {name: f"old {name}" for name in NAMES}
    assert sorted(path.name for path in out.iterdir()) == [PREVIOUS, "restricted", "signoff.json"]


def test_a_folder_of_others_is_not_touched(tmp_path: Path) -> None:
    out = reported(tmp_path / "out", "old")
    (out / PREVIOUS).mkdir()
    (out / PREVIOUS / "thesis.tex").write_text("mine")
    with pytest.raises(StorageFailed, match="not empty") as caught:
        set_aside(out)
    assert "the earlier report waits in" in caught.value.hint
    assert not (out / "report.json").exists()
    assert (out / PREVIOUS / "thesis.tex").read_text() == "mine"
    (out / PREVIOUS).rename(tmp_path / "mine")
    assert set_aside(out) == out / PREVIOUS
    assert (out / PREVIOUS / "attestation.json").read_text() == "old attestation.json"


def test_a_misspelt_model_costs_no_report_and_a_verdict_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    out = reported(tmp_path / "privacy-gate-report", "old")
    assert cli.run(["check", "models:/none@such", "--config", "misspelt.yaml"]) == 2
    assert "an earlier report is in privacy-gate-report/previous until" in capsys.readouterr().err
    assert not (out / "report.json").exists()
    draws = np.random.default_rng(0)
    sides = {f"target_{side}_{what}": value for side in ("member", "nonmember") for what, value in {
        "probs": draws.dirichlet([1, 1, 1], 60), "labels": np.arange(60) % 3}.items()}  # fmt: skip
    np.savez("seen.npz", **sides)
    # A run that broke has no verdict; one that judged has.
    np.savez("broken.npz", **{**sides, "target_member_probs": np.full((60, 3), np.nan)})
    assert cli.run(["check", "--observations", "broken.npz", "--suite", "fast"]) in (2, 3, 4)
    assert (out / PREVIOUS / "report.json").read_text() == "old report.json"
    assert cli.run(["check", "--observations", "seen.npz", "--suite", "fast"]) == 4
    assert json.loads((out / "report.json").read_text())["verdict"]["status"] == "inconclusive"
    assert not (out / PREVIOUS).exists()
