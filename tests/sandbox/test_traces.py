"""Drafts from texts that training left behind: read without loading anything, believed only where they fit."""

from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
import yaml
from hypothesis import given
from hypothesis import strategies as st

from privacy_gate.sandbox.traces import (
    Columns,
    _in_json,
    _in_ubjson,
    lightgbm_columns,
    xgboost_columns,
    xgboost_settings,
)

N = 120
FRAME = pd.DataFrame(
    {
        "town": pd.Categorical(np.resize(["b", "a", "c"], N), ["c", "b", "a"]),
        "net income": np.arange(N) * 1.5,
        "tier": pd.Categorical(np.resize([3, 1], N)),
    }
)
LABELS = (np.arange(N) % 7 > 2).astype(int)


def saved(folder: Path, frame, **params) -> Path:
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "min_data_per_group": 1, **params}
    lightgbm.train(settings, lightgbm.Dataset(frame, LABELS), 3).save_model(folder / "model.lgb")
    return folder / "model.lgb"


def test_a_lightgbm_file_tells_columns_and_levels(tmp_path):
    told = lightgbm_columns(saved(tmp_path, FRAME))
    assert told == Columns(("town", "net_income", "tier"), {"town": ("c", "b", "a"), "tier": (1, 3)})


def test_columns_without_names_are_unknown(tmp_path):
    assert lightgbm_columns(saved(tmp_path, FRAME[["net income"]].to_numpy())) == Columns()


def test_levels_that_do_not_fit_the_columns_are_not_told(tmp_path):
    file = saved(tmp_path, FRAME)
    text = file.read_text()
    for odd in ('[["c", "b", "a"]]', "[1, 2]", "{", "[" * 5000):
        begin = text.index("pandas_categorical:")
        file.write_text(text[:begin] + f"pandas_categorical:{odd}\n")
        assert lightgbm_columns(file) == Columns(("town", "net_income", "tier"))


@pytest.mark.parametrize("content", [b"", b"\x80\x04junk", b"tree\nversion=v4\n", b"tree\nfeature_names=a a\n"])
def test_other_files_tell_nothing(tmp_path, content):
    (tmp_path / "model").write_bytes(content)
    assert lightgbm_columns(tmp_path / "model") == Columns()
    assert lightgbm_columns(tmp_path / "absent") == Columns()


@pytest.mark.parametrize("suffix", ["ubj", "json"])
def test_the_columns_of_xgboost_stand_in_its_file(tmp_path, suffix):
    file = tmp_path / f"model.{suffix}"
    for names in (["net income", "ü", 'a "b"'], ["f0", "f1", "f2"], None):
        table = xgboost.DMatrix(np.arange(3.0 * N).reshape(N, 3), LABELS, feature_names=names)
        xgboost.train({"objective": "binary:logistic", "nthread": 1}, table, 2).save_model(file)
        known = names if names and names[0] != "f0" else ()
        assert xgboost_columns(file) == Columns(tuple(known))
    assert lightgbm_columns(file) == Columns() == xgboost_columns(tmp_path / "absent")


@given(st.data())
def test_a_broken_file_of_xgboost_tells_names_or_nothing(data):
    def text(value):
        return len(value).to_bytes(8, "big") + value

    whole = b"{L" + text(b"learner") + b"{L" + text(b"feature_names") + b"[#L" + (2).to_bytes(8, "big")
    whole += b"SL" + text(b"age") + b"SL" + text(b"pay")
    assert _in_ubjson(whole) == ["age", "pay"]
    at = data.draw(st.integers(0, len(whole) - 1))
    broken = bytearray(whole)
    broken[at] = data.draw(st.integers(0, 255))
    for content in (bytes(broken), whole[:at]):
        assert all(isinstance(name, str) for name in _in_ubjson(content))
    assert _in_ubjson(whole[:-1]) == []
    assert _in_json(b'{"feature_names":[1]') == _in_json(b'{"feature_names":' + b"[" * 9000) == []


def test_settings_have_the_types_of_xgboost():
    given = {
        "max_depth": 7,
        "learning_rate": 0.25,
        "subsample": 1,
        "min_child_weight": 2.0,
        "grow_policy": "lossguide",
        "monotone_constraints": (1, 0, -1),
        "interaction_constraints": [["a", "b"], ["c"]],
        "one_drop": True,
    }
    beside = {"objective": "binary:logistic", "n_estimators": 60, "random_state": 3, "gamma": None, "missing": np.nan}
    others = {"dataset": "v3", "max_leaves": "many", "tree_method": "hist]\nmodel: evil"}
    logged = xgboost_settings({name: str(value) for name, value in (given | beside | others).items()})
    assert logged.params == given | {"monotone_constraints": [1, 0, -1]}
    assert {name: type(value) for name, value in logged.params.items() if name in ("max_depth", "subsample")} == {
        "max_depth": int,
        "subsample": int,
    }
    assert logged.left == ("dataset", "max_leaves", "tree_method")


def test_a_run_that_logged_nothing_of_it_says_nothing():
    assert xgboost_settings({"dataset": "v3", "n_estimators": "60"}) is None
    assert dict(xgboost_settings({"max_depth": "None"}).params) == {}  # all at their defaults


def test_what_autolog_writes_trains_the_same_model():
    """The parameters of a classifier, as MLflow logs them, give the same trees again."""
    x = FRAME[["net income"]]
    model = xgboost.XGBClassifier(max_depth=2, learning_rate=0.7, reg_lambda=3, n_estimators=4, n_jobs=1).fit(x, LABELS)
    logged = xgboost_settings({name: str(value) for name, value in model.get_xgb_params().items()})
    assert dict(logged.params) == {"learning_rate": 0.7, "max_depth": 2, "reg_lambda": 3}
    again = xgboost.XGBClassifier(**logged.params, n_estimators=4, n_jobs=1).fit(x, LABELS)
    assert again.get_booster().get_dump() == model.get_booster().get_dump()


@given(st.dictionaries(st.sampled_from(["max_depth", "eta", "updater", "monotone_constraints", "x"]), st.text()))
def test_any_text_is_a_setting_or_left_out(params):
    logged = xgboost_settings(params)
    assert (logged is None) == (not params.keys() - {"x"})
    if logged is not None:
        assert not set(logged.params) & set(logged.left)
        assert yaml.safe_load(yaml.safe_dump(dict(logged.params))) == dict(logged.params)
