"""The file that runs the nightly tests: valid by its vendor's schema, on a schedule and by hand."""

from __future__ import annotations

from pathlib import Path

import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema.validators import validator_for

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / ".github" / "workflows" / "nightly.yml"


def test_it_is_valid_and_runs_the_nightly_tests_by_schedule_and_by_hand() -> None:
    read = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    workflow = {("on" if key is True else key): value for key, value in read.items()}  # YAML 1.1 takes `on` for true
    schema = get_builtin_schema("vendor.github-workflows")
    assert [error.message for error in validator_for(schema)(schema).iter_errors(workflow)] == []
    assert workflow["on"].keys() == {"schedule", "workflow_dispatch"}
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    (line,) = [step["run"] for step in job["steps"] if "run" in step]
    program, *arguments = line.split()
    assert (ROOT / program).is_file()
    assert arguments == ["-m", "nightly"]
