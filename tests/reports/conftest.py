"""The four fixed reports, built once."""

import pytest

from privacy_gate.reports.document import Report
from tests.reports.samples import SAMPLES


@pytest.fixture(scope="session")
def samples() -> dict[str, Report]:
    return {name: build() for name, build in SAMPLES.items()}


@pytest.fixture(params=sorted(SAMPLES))
def report(request: pytest.FixtureRequest, samples: dict[str, Report]) -> Report:
    """Each of them in turn."""
    return samples[request.param]
