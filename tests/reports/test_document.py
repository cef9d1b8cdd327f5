"""report.json: whole, finite, verifiable, readable by tomorrow's and yesterday's versions."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from privacy_gate.errors import UsageError
from privacy_gate.reports import document
from privacy_gate.reports.document import Report, content_digest, dumps, json_schema, parse, verify
from tests.reports.samples import SAMPLES

SCHEMA = Path(__file__).parents[2] / "templates" / document.SCHEMA_FILE


def test_schema_file_is_up_to_date() -> None:
    text = json.dumps(json_schema(), indent=2) + "\n"
    if os.environ.get("PRIVACY_GATE_UPDATE_GOLDEN"):
        SCHEMA.write_text(text)
    assert SCHEMA.read_text() == text, "run with PRIVACY_GATE_UPDATE_GOLDEN=1"


def test_samples_fit_the_schema(report: Report) -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(json.loads(dumps(report)))


def test_the_schema_refuses_other_things(samples: dict[str, Report]) -> None:
    content = json.loads(dumps(samples["error"]))
    for broken in (
        {**content, "verdict": None},
        {**content, "surprise": 1},
        {k: content[k] for k in content if k != "run"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, json_schema())


def test_round_trip(report: Report) -> None:
    assert parse(dumps(report)) == report
    assert dumps(parse(dumps(report))) == dumps(report)


def test_keys_are_in_schema_order_and_end_with_a_newline(report: Report) -> None:
    text = dumps(report)
    assert list(json.loads(text)) == list(Report.model_fields)
    assert text.endswith("}\n")
    assert text.isascii()


def test_two_builds_are_equal_bytes() -> None:
    assert {name: dumps(build()) for name, build in SAMPLES.items()} == {
        name: dumps(build()) for name, build in SAMPLES.items()
    }


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def test_no_number_is_nan_or_infinite(report: Report) -> None:
    floats = [leaf for leaf in _leaves(json.loads(dumps(report))) if isinstance(leaf, float)]
    assert all(math.isfinite(number) for number in floats)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_model_refuses_what_is_not_a_number(bad: float) -> None:
    with pytest.raises(ValidationError):
        document.Interval(value=bad, low=0.0, high=1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nor_does_free_json_carry_it(bad: float, samples: dict[str, Report]) -> None:
    report = samples["pass"]
    assert report.policy is not None
    policy = report.policy.model_copy(update={"resolved": {"max": bad}})
    with pytest.raises(ValueError, match="JSON compliant"):
        dumps(report.model_copy(update={"policy": policy}))


# --- integrity ------------------------------------------------------------------------------------------------------


def test_verify_accepts_what_was_written(report: Report) -> None:
    assert verify(report)
    assert verify(json.loads(dumps(report)))


def test_digest_is_sha256_of_canonical_json(samples: dict[str, Report]) -> None:
    """The slow, obvious twin: what another program would compute from the description in the report."""
    import hashlib

    content = json.loads(dumps(samples["fail"]))
    stated = content.pop("integrity")["report_sha256"]
    del content["run"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert hashlib.sha256(text.encode("ascii")).hexdigest() == stated


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("verdict", {"status": "pass", "exit_code": 0}),
        ("signoff", {"prepared_by": "somebody"}),
        ("seed", 1),
        ("rules", []),
        ("schema_version", "1.1"),
    ],
)
def test_verify_notices_a_change(part: str, change: Any, samples: dict[str, Report]) -> None:
    content = json.loads(dumps(samples["fail"]))
    content[part] = {**content[part], **change} if isinstance(change, dict) else change
    assert not verify(content)


def test_the_run_may_differ(samples: dict[str, Report]) -> None:
    content = json.loads(dumps(samples["fail"]))
    content["run"]["host"] = "elsewhere"
    assert verify(content)
    assert content_digest(content) == content["integrity"]["report_sha256"]


@pytest.mark.parametrize("content", [{}, {"integrity": None}, {"integrity": {}}, {"integrity": {"report_sha256": ""}}])
def test_verify_is_false_without_a_digest(content: dict[str, Any]) -> None:
    assert not verify(content)


# --- other versions -------------------------------------------------------------------------------------------------


def _with_news(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _with_news(value) for key, value in content.items()} | {"brand_new": {"x": [1]}}
    if isinstance(content, list):
        return [_with_news(item) for item in content]
    return content


def test_a_newer_minor_version_is_read(samples: dict[str, Report]) -> None:
    """Keys of 1.7 that nobody knows here are ignored, at every depth where keys are fixed."""
    content = json.loads(dumps(samples["fail"]))
    newer = content | {"schema_version": "1.7", "new": 1}
    for part in ("verdict", "subject", "data", "threat_model"):
        newer[part] = newer[part] | {"brand_new": {"x": [1]}}
    newer["attacks"] = [_with_news(attack) | {"metrics": attack["metrics"]} for attack in newer["attacks"]]
    newer["attacks"] = [
        attack | {"metrics": attack["metrics"] and attack["metrics"] | {"epsilon": 0.3}} for attack in newer["attacks"]
    ]
    read = parse(json.dumps(newer))
    assert read.schema_version == "1.7"
    assert read.model_copy(update={"schema_version": "1.0"}) == samples["fail"]


def test_unknown_keys_of_this_version_are_refused(samples: dict[str, Report]) -> None:
    content = json.loads(dumps(samples["fail"])) | {"new": 1}
    with pytest.raises(UsageError, match="new"):
        parse(json.dumps(content))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"schema_version": "2.0"}', '{"schema_version": 1.0}'])
def test_what_is_not_a_report_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a report"):
        parse(text)


def test_a_cut_report_names_what_is_missing(samples: dict[str, Report]) -> None:
    content = json.loads(dumps(samples["fail"]))
    del content["verdict"]
    with pytest.raises(UsageError, match="verdict"):
        parse(json.dumps(content))


def test_parts_are_frozen(samples: dict[str, Report]) -> None:
    with pytest.raises(ValidationError):
        samples["fail"].verdict.exit_code = 0  # type: ignore[misc]
