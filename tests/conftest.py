"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of reference data sets; tests that need it are skipped with a reason without it."""
    folder = os.environ.get("PRIVACY_GATE_REFERENCE_DATA")
    if not folder:
        pytest.skip("PRIVACY_GATE_REFERENCE_DATA is not set")
    return Path(folder)


LONGEST_FIRST = ("e2e", "shadows", "sandbox", "registry", "cli")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long begin first: two workers then end at about the same time."""

    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def rank(item: pytest.Item) -> tuple[bool, bool, int]:
        folder = item.path.parent.name
        place = LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)
        return folder != LONGEST_FIRST[0], item.path not in slow, place

    items.sort(key=rank)
