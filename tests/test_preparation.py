"""What is refused before hours are spent, on a part of the records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from privacy_gate.datamodel import Estimand, Role
from privacy_gate.errors import NotEvaluable, UsageError
from privacy_gate.manifest import DUPLICATES, Dataset, load
from privacy_gate.policy import resolve
from privacy_gate.preparation import Prepared, _loaded, _require_estimand
from privacy_gate.request import AuditSample, CheckRequest, Config, DataManifest

NOBODY = cast("Any", None)


def fetch(uri: str) -> Path:
    raise AssertionError(uri)


def dataset(folder: Path, copies: int = 0, **audit: int) -> Dataset:
    """60 members and 60 others; the first `copies` of the members are non-members, too."""
    age = np.random.default_rng(0).normal(size=120)
    records = pd.DataFrame({"age": age, "y": np.arange(120) % 2})
    records[:60].to_csv(folder / "members.csv", index=False)
    pd.concat([records[60:], records[:copies]]).to_csv(folder / "others.csv", index=False)
    manifest = DataManifest.model_validate({"members": "members.csv", "nonmembers": "others.csv"})
    return load(manifest, folder, fetch, audit=AuditSample(**audit) if audit else None)


CENSUS = replace(resolve("standard"), estimand=Estimand.CENSUS)


def test_a_sample_is_no_census_however_many_duplicates_were_dropped(tmp_path: Path) -> None:
    """Each duplicate is dropped from either side: the non-members' half must not stand for members who are missing."""
    _require_estimand(CENSUS, dataset(tmp_path, copies=10), 0)
    part = dataset(tmp_path, copies=10, members=45)
    assert part.members == 45
    assert part.train_size - part.members - part.removed[DUPLICATES] <= 0
    with pytest.raises(NotEvaluable, match="not all members are audited"):
        _require_estimand(CENSUS, part, 0)


def test_another_sample_is_another_look_at_the_model(tmp_path: Path) -> None:
    whole, part, more = (dataset(tmp_path, **audit) for audit in ({}, {"members": 30}, {"members": 40}))
    assert len({whole.digest, part.digest, more.digest}) == 3
    assert dataset(tmp_path, members=30).digest == part.digest
    assert dataset(tmp_path, members=600).digest == whole.digest  # nobody was left out


def test_finished_answers_are_not_read_in_another_order_than_they_were_made_in(tmp_path: Path) -> None:
    part = dataset(tmp_path, members=30)
    assert part.role_mask(Role.POPULATION).sum() == 30  # as many rows in all, elsewhere
    config = Config.model_validate({"data": {"members": "members.csv", "nonmembers": "others.csv"}})
    ready = cast("Prepared", SimpleNamespace(dataset=part, labels=np.zeros(120), classes=(0, 1)))
    with pytest.raises(UsageError, match="in the order of the data"):
        _loaded(CheckRequest(config=config, config_dir=tmp_path), ready, "finished.npz", NOBODY, NOBODY)
