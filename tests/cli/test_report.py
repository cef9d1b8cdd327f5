"""`privacy-gate report`: any format again, to files or to stdout."""

import pytest

from privacy_gate import cli
from privacy_gate.policy.examples import evidence
from privacy_gate.reports import CATALOG
from privacy_gate.reports.document import read
from tests.policy.test_stored import written


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.json").write_text(written(evidence(n=100)))
    return tmp_path / "report.json"


def test_one_format_to_stdout_as_check_has_it(source, capsys):
    wanted = CATALOG["markdown"].render(read(source.read_bytes()))
    for arguments in (["--format", "markdown=-"], ["--format", "markdown", "--out", "-"]):
        assert cli.run(["report", "report.json", *arguments]) == 0
        assert capsys.readouterr().out == wanted
        assert [path.name for path in source.parent.iterdir()] == ["report.json"]
    assert cli.run(["report", "report.json", "--format", "markdown=-", "--format", "html"]) == 0
    assert capsys.readouterr().out == wanted
    assert sorted(path.name for path in source.parent.iterdir()) == ["report.html", "report.json"]


@pytest.mark.parametrize(
    ("formats", "said"), [(["html=-", "markdown=-"], "stdout takes one format"), (["markdwn=-"], "markdown")]
)
def test_what_stdout_does_not_take(source, capsys, formats, said):
    assert cli.run(["report", "report.json", *(part for name in formats for part in ("--format", name))]) == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    assert said in caught.err
