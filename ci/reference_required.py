"""A pytest plugin (-p ci.reference_required): a test on reference data that is skipped has failed."""

from collections.abc import Generator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test that is marked `reference`, or asks for the reference data, into a failure."""
    report = yield
    fixtures: Any = getattr(item, "fixturenames", ())
    wanted = item.get_closest_marker("reference") is not None or "reference_data" in fixtures
    if wanted and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"must not be skipped here: {reason}"
    return report
