"""The contract of every format in the catalog: golden files, hostile texts, honest wording."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from privacy_gate.reports import CATALOG, ReportFormat, write
from privacy_gate.reports import html as html_format
from privacy_gate.reports.document import Report, dumps, parse
from privacy_gate.reports.wording import LIMITATIONS, OUT_OF_SCOPE, READINGS, VERDICTS
from tests.reports.hostile import PAYLOAD, hostile
from tests.reports.samples import SAMPLES

GOLDEN = Path(__file__).parent / "golden"
FORMATS = CATALOG.names()


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> ReportFormat:
    return CATALOG[request.param]


def test_the_catalog_finds_the_formats() -> None:
    assert {"html", "json", "markdown"} <= set(FORMATS)
    suffixes = [form.suffix for form in CATALOG]
    assert len(set(suffixes)) == len(suffixes)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_golden_file(form: ReportFormat, name: str, samples: dict[str, Report]) -> None:
    path = GOLDEN / f"{name}{form.suffix}"
    text = form.render(samples[name])
    if os.environ.get("PRIVACY_GATE_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), "no golden file: run once with PRIVACY_GATE_UPDATE_GOLDEN=1"
    assert text == path.read_text(encoding="utf-8"), "run with PRIVACY_GATE_UPDATE_GOLDEN=1 and read the difference"


def test_no_golden_file_is_left_over() -> None:
    expected = {f"{name}{form.suffix}" for name in SAMPLES for form in CATALOG}
    assert {path.name for path in GOLDEN.iterdir()} == expected


@pytest.mark.parametrize("build", SAMPLES.values(), ids=SAMPLES.keys())
def test_rendering_is_a_function(form: ReportFormat, build: Callable[[], Report]) -> None:
    assert form.render(build()) == form.render(parse(dumps(build())))


def test_says_the_same_verdict_everywhere(form: ReportFormat, report: Report) -> None:
    text = form.render(report)
    assert report.verdict.headline in text
    assert (VERDICTS[report.verdict.status] if form.name != "json" else report.verdict.status) in text


def test_no_control_character_survives(form: ReportFormat, report: Report) -> None:
    text = form.render(hostile(report))
    assert not re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", text)


def test_secrets_in_urls_are_gone(form: ReportFormat, samples: dict[str, Report]) -> None:
    text = form.render(samples["error"])
    assert "hunter2" not in text
    assert "mlflow.example.org" in text


FORBIDDEN = re.compile(r"complian|anonym|certif|guarantee|gdpr-proof|is safe", re.IGNORECASE)


def test_wording_claims_nothing(form: ReportFormat, report: Report) -> None:
    """Evidence for resistance to the attacks listed; never "compliant", "anonymous" or "certified"."""
    assert FORBIDDEN.findall(form.render(report)) == []


def test_fixed_texts_claim_nothing() -> None:
    texts = [*READINGS.values(), *LIMITATIONS, *(o.note for o in OUT_OF_SCOPE)]
    assert [text for text in texts if FORBIDDEN.search(text)] == []


def test_not_measured_is_a_dash_and_never_a_zero(samples: dict[str, Report]) -> None:
    row = next(line for line in CATALOG["markdown"].render(samples["inconclusive"]).splitlines() if "**PG104**" in line)
    assert row.split("|")[4:6] == [" – ", " – "]


def test_an_attack_that_did_not_run_is_named_with_its_reason(samples: dict[str, Report]) -> None:
    for name in ("html", "markdown"):
        text = CATALOG[name].render(samples["inconclusive"])
        assert "no record has 2 shadows in and 2 out" in text
        assert "ended with a division by zero" in text


def test_the_payload_is_in_the_report(samples: dict[str, Report]) -> None:
    """Else the tests of hostile texts prove nothing."""
    filled = hostile(samples["fail"])
    assert (filled.subject.name or "").startswith(PAYLOAD)
    assert filled.rules[0].reason.startswith(PAYLOAD)
    assert filled.warnings[0].startswith(PAYLOAD)
    assert filled.policy is not None
    assert all(key.startswith(PAYLOAD) for key in filled.policy.resolved)
    assert filled.rules[0].location is not None
    assert filled.rules[0].location.file.startswith(PAYLOAD)


# --- writing --------------------------------------------------------------------------------------------------------


def test_write_puts_private_files_in_a_folder(tmp_path: Path, report: Report) -> None:
    paths = write(report, tmp_path / "out", ["html", "markdown", "html"])
    assert list(paths) == ["json", "html", "markdown"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.json", "report.html", "report.md"}
    assert {path.stat().st_mode & 0o777 for path in paths.values()} == {0o600}
    assert parse(paths["json"].read_bytes()) == report


def test_write_leaves_no_rendering_of_another_run(tmp_path: Path, samples: dict[str, Report]) -> None:
    write(samples["pass"], tmp_path, ["html", "markdown"])
    write(samples["fail"], tmp_path, ["markdown"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]


def test_a_broken_template_costs_neither_the_evidence_nor_the_truth(
    tmp_path: Path, samples: dict[str, Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(samples["pass"], tmp_path, ["html"])
    monkeypatch.setattr(
        html_format, "context", lambda report: {"question": "", "pressing": [], "waivers": [], "families": []}
    )
    with pytest.raises(UndefinedError):
        write(samples["fail"], tmp_path, ["html"])
    assert parse((tmp_path / "report.json").read_bytes()) == samples["fail"]
    assert not (tmp_path / "report.html").exists()
