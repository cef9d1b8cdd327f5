"""URIs, copies, digests, and what an MLmodel file tells."""

from __future__ import annotations

import hashlib
import json
import os
import stat

import pytest
import yaml

from privacy_gate.errors import CandidateNotFound, UnsupportedModel, UsageError
from privacy_gate.registry import snapshot as s
from privacy_gate.registry.in_memory import InMemoryRegistry


def folder(tmp_path, flavors, files=(), **more):
    root = tmp_path / "model"
    root.mkdir()
    (root / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors, **more}))
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


# --- URIs ---


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("models:/a/7", s.Version("a", "7")),
        ("models:/a/007", s.Version("a", "7")),
        ("models:/a/latest", s.Version("a", None)),
        ("models:/a/Latest", s.Version("a", None)),
        ("models:/a@b", s.Alias("a", "b")),
        ("models:/a@b@c", s.Alias("a@b", "c")),
        ("models:/a b@c", s.Alias("a b", "c")),
        ("models:/a", s.Bare("a")),
        ("models:/m-" + "0a" * 16, s.Logged("m-" + "0a" * 16)),
        ("models:/m-short", s.Bare("m-short")),
        ("runs:/abc/model", s.RunArtifact("abc", "model")),
        ("runs:/abc/a/b.npz", s.RunArtifact("abc", "a/b.npz")),
        ("models", s.Folder(s.Path("models"))),
        ("./a:b", s.Folder(s.Path("a:b"))),
        ("file:///a%20b", s.Folder(s.Path("/a b"))),
    ],
)
def test_uris_name_what_they_should(uri, address):
    assert s.parse(uri) == address


@pytest.mark.parametrize(
    "uri",
    [
        "models:/a/b/c",
        "models:/",
        "models://host/a/1",
        "models:a",
        "models:/a@",
        "models:/@a",
        "runs:/a",
        "runs:/a/../b",
        "s3://bucket/model",
        "runs:/a//etc/passwd",
        "models:/a/²",
        "models:/a/Staging",
    ],
)
def test_other_uris_are_refused(uri):
    with pytest.raises(UsageError):
        s.parse(uri)


def test_a_hostile_uri_is_shown_harmlessly():
    with pytest.raises(UsageError) as caught:
        s.parse("models:/\x1b[31ma/b/c\n::error::x")
    assert "\x1b" not in str(caught.value)
    assert "\n::error" not in str(caught.value)


# --- copies and digests ---


def test_the_digest_is_the_documented_one(tmp_path):
    root = folder(tmp_path, {"sklearn": {}}, ["b", "a/c", "a-c", "registered_model_meta"])
    expected = hashlib.sha256()
    for name in sorted(["MLmodel", "b", "a/c", "a-c"]):
        expected.update(name.encode() + b"\0" + hashlib.sha256((root / name).read_bytes()).digest())
    assert s.digest(root) == expected.hexdigest()


def test_the_digest_sees_names_and_bytes_only(tmp_path):
    root = folder(tmp_path, {"sklearn": {}}, ["a", "b"])
    before = s.digest(root)
    (root / "registered_model_meta").write_text("model_name: x")
    os.utime(root / "a", (0, 0))
    assert s.digest(root) == before
    (root / "a").rename(root / "c")
    assert s.digest(root) != before


BOOSTER = {"loader_module": "mlflow.lightgbm", "data": "model.lgb"}


@pytest.mark.parametrize(
    ("flavors", "second"),
    [
        ({"lightgbm": {"data": "model.lgb"}, "xgboost": {"data": "model.ubj"}}, "flavor 'xgboost'"),
        ({"lightgbm": {"data": "model.lgb"}, "onnx": {}}, "flavor 'onnx'"),
        ({"lightgbm": {}, "python_function": BOOSTER | {"loader_module": "mlflow.xgboost"}}, "by mlflow.xgboost"),
        ({"lightgbm": {}, "python_function": BOOSTER | {"loader_module": "loader"}}, "by loader"),
        ({"lightgbm": {}, "python_function": BOOSTER | {"data": "other.lgb"}}, "with other.lgb"),
        ({"lightgbm": {"data": "a/b.lgb"}, "python_function": BOOSTER | {"data": "a/b.lgb"}}, "a/b.lgb, which is not"),
        ({"sklearn": {"pickled_model": "a"}, "python_function": {"model_path": "b"}}, "with b"),
        ({"sklearn": {"pickled_model": "a"}, "python_function": {"model_path": "a", "data": "b"}}, "with b"),
        ({"pytorch": {"model_data": "data"}, "python_function": {"data": "more"}}, "with more"),
        ({"lightgbm": {"data": "model.lgb"}, "python_function": BOOSTER}, None),
        ({"lightgbm": {}, "python_function": BOOSTER}, None),
        ({"sklearn": {"pickled_model": "a"}, "python_function": {"model_path": "a"}}, None),
        ({"pytorch": {"model_data": "data"}, "python_function": {"data": "data"}}, None),
    ],
)
def test_what_is_judged_is_what_is_served(tmp_path, flavors, second):
    """Else a harmless model in the native flavor would let another one through, which mlflow.pyfunc serves."""
    root = folder(tmp_path, flavors)
    if second is None:
        s.take_local(root, "m", tmp_path / "work")
        return
    with pytest.raises(UnsupportedModel, match="two models") as caught:
        s.take_local(root, "m", tmp_path / "work")
    assert second in str(caught.value)


@pytest.mark.parametrize("more", [b"x:\n" + b"- 1\n" * (1 << 16), b"x: " + b"1" * (1 << 23)])
def test_an_mlmodel_file_that_would_take_all_day_is_refused(tmp_path, more):
    root = folder(tmp_path, {"sklearn": {}})
    with (root / "MLmodel").open("ab") as stream:
        stream.write(more)
    with pytest.raises(UsageError, match="cannot be read"):
        s.read_mlmodel(root)


def test_the_widest_signature_is_read(tmp_path):
    root = folder(tmp_path, {"sklearn": {}})
    wide = json.dumps([{"name": f"a column with a long name, {number}", "type": "double"} for number in range(1 << 16)])
    (root / "MLmodel").write_text("flavors: {sklearn: {}}\nsignature:\n  inputs: '" + wide + "'\n")
    assert len(s.inputs(s.read_mlmodel(root))) == 1 << 16


def test_what_is_not_hashed_is_not_in_the_copy(tmp_path):
    """The file that downloading writes is the one a model could change without another digest: weights, say."""
    shots = []
    for number, content in enumerate(["good weights", "leaky weights"]):
        (tmp_path / str(number)).mkdir()
        root = folder(tmp_path / str(number), {"lightgbm": {"data": "registered_model_meta"}})
        (root / "registered_model_meta").write_text(content)
        shots.append(s.take_local(root, "m", tmp_path / "work"))
    assert shots[0].digest == shots[1].digest, "MLflow writes it into the artifact store itself"
    assert [path.name for shot in shots for path in shot.folder.iterdir()] == ["MLmodel", "MLmodel"]


def test_links_inside_are_followed_and_links_outside_refused(tmp_path):
    root = folder(tmp_path, {"sklearn": {}}, ["data/a"])
    (root / "link").symlink_to("data/a")
    (root / "tree").symlink_to("data")
    (tmp_path / "copy").mkdir()
    s.copy(root, tmp_path / "copy")
    assert (tmp_path / "copy/link").read_bytes() == (tmp_path / "copy/tree/a").read_bytes() == b"data/a"
    assert not any(p.is_symlink() for p in (tmp_path / "copy").rglob("*"))
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "copy").rglob("*") if p.is_dir()} == {0o700}


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "/etc", "..", "data/../../secret"])
def test_a_link_that_leads_out_is_refused(tmp_path, target):
    (tmp_path / "secret").write_text("s")
    root = folder(tmp_path, {"sklearn": {}}, ["data/a"])
    (root / "data" / "link").symlink_to(target if target.startswith("/") else "../" + target)
    with pytest.raises(UsageError, match="leads out of the model's folder"):
        s.take_local(root, "m", tmp_path / "into")


def test_a_link_that_leads_back_and_a_pipe_are_refused(tmp_path):
    root = folder(tmp_path, {"sklearn": {}}, ["data/a"])
    (root / "data/loop").symlink_to("..")
    with pytest.raises(UsageError, match="leads back to itself"):
        s.take_local(root, "m", tmp_path / "into")
    (root / "data/loop").unlink()
    os.mkfifo(root / "data/pipe")
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        s.take_local(root, "m", tmp_path / "into")


def test_a_download_with_a_link_is_refused(tmp_path):
    root = folder(tmp_path, {"sklearn": {}}, ["a"])
    s.make_private(root)
    (root / "b").symlink_to("a")
    with pytest.raises(UsageError, match="a link in a download"):
        s.make_private(root)


# --- MLmodel ---


@pytest.mark.parametrize(
    ("flavors", "named"),
    [
        ({"openai": {}, "python_function": {}}, "openai"),
        ({"langchain": {}, "python_function": {}}, "langchain"),
        ({"llama_index": {}, "python_function": {}}, "llama_index"),
        ({"sentence_transformers": {}, "python_function": {}}, "sentence_transformers"),
        ({"transformers": {"task": "text-generation"}, "python_function": {}}, "text-generation"),
        ({"prophet": {}, "python_function": {}}, "prophet"),
        ({"pmdarima": {}, "python_function": {}}, "pmdarima"),
        ({"diviner": {}, "python_function": {}}, "diviner"),
        ({"statsmodels": {}, "python_function": {}}, "statsmodels"),
        ({"crate": {}}, "crate"),
        ({"spark": {}}, "spark"),
        ({"lightgbm": {"model_class": "lightgbm.sklearn.LGBMRegressor"}}, "LGBMRegressor"),
        ({"xgboost": {"model_class": "xgboost.sklearn.XGBRanker"}}, "XGBRanker"),
    ],
)
def test_other_kinds_of_model_are_refused_by_name_before_a_copy_is_made(tmp_path, flavors, named):
    root = folder(tmp_path, flavors)
    with pytest.raises(UnsupportedModel, match=named) as caught:
        s.take_local(root, "models:/x/1", tmp_path / "into")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "into").exists()


def test_a_chat_model_behind_pyfunc_is_refused(tmp_path):
    root = folder(tmp_path, {"python_function": {}}, metadata={"task": "llm/v1/chat"})
    with pytest.raises(UnsupportedModel, match="llm/v1/chat"):
        s.take_local(root, "m", tmp_path / "into")


def test_classifiers_are_not_refused(tmp_path):
    for n, flavors in enumerate(
        [
            {"sklearn": {}},
            {"python_function": {}},
            {"transformers": {"task": "text-classification"}, "python_function": {}},
            {"lightgbm": {"model_class": "lightgbm.sklearn.LGBMClassifier"}},
        ]
    ):
        (tmp_path / str(n)).mkdir()
        s.take_local(folder(tmp_path / str(n), flavors), "m", tmp_path / "into")


@pytest.mark.parametrize(
    ("flavors", "flavor"),
    [
        ({"python_function": {}, "sklearn": {}}, "sklearn"),
        ({"python_function": {}, "pytorch": {}}, "pytorch"),
        ({"python_function": {}, "lightgbm": {}}, "lightgbm"),
        ({"python_function": {}, "xgboost": {}}, "xgboost"),
        ({"python_function": {}, "onnx": {}}, "pyfunc"),
    ],
)
def test_the_native_flavor_comes_first(flavors, flavor):
    assert s.flavor_of({"flavors": flavors}) == flavor


INERT = {"lightgbm": {"data": "model.lgb"}, "python_function": {"loader_module": "mlflow.lightgbm"}}
PT2 = {"pytorch": {"model_data": "data", "code": None}, "python_function": {"loader_module": "mlflow.pytorch"}}


@pytest.mark.parametrize(
    ("flavors", "files", "executes"),
    [
        (PT2, ["data/model.pt2"], True),  # torch.export.load evaluates the expressions in it
        (INERT, ["model.lgb"], False),
        ({"lightgbm": {"data": "model.lgb", "loader_module": ["a"]}}, ["model.lgb"], True),
        ({"lightgbm": {"data": "model\0lgb"}}, ["model.lgb"], True),
        ({"lightgbm": {"data": "model\ud800.lgb"}}, ["model.lgb"], True),
        ({"xgboost": {"data": "model.ubj"}}, ["model.ubj", "requirements.txt", "registered_model_meta"], False),
        (PT2, ["data/model.pth"], True),
        (INERT, ["model.lgb", "data/model.pth"], True),
        (INERT, ["model.lgb", "code/sympy.py"], True),
        (INERT, ["model.lgb", "deeper/MLmodel"], True),
        ({**INERT, "pytorch": {"code": "code"}}, ["model.lgb"], True),
        ({"pytorch": {}, "python_function": {"loader_module": "loader"}}, ["model.lgb"], True),
        ({"python_function": {"loader_module": "mlflow.pyfunc.model"}}, ["model.lgb"], True),
        ({"pytorch": {"model_code_path": "model.py"}}, ["model.lgb"], True),
        ({"pytorch": {"model_data": "../outside"}}, ["model.lgb"], True),
        ({"pytorch": {"model_data": "/etc/x"}}, ["model.lgb"], True),
        ({"sklearn": {"pickled_model": "model.skops"}}, ["model.skops"], True),
        ({"sklearn": {"pickled_model": "model.pkl"}}, ["model.pkl"], True),
        # A pickle by any other name, and a text that names the module to unpickle with.
        ({"sklearn": {"pickled_model": "model.json"}}, ["model.json"], True),
        ({"pytorch": {"model_data": "data"}}, ["data/pickle_module_info.txt"], True),
        ({"python_function": {"loader_module": "mlflow.pytorch", "data": "data"}}, ["data/model.json"], True),
        ({"python_function": {"loader_module": "mlflow.lightgbm", "data": "model.lgb"}}, ["model.lgb"], True),
        ({"catboost": {"data": "model.json"}}, ["model.json"], True),
        ({"lightgbm": "model.lgb"}, ["model.lgb"], True),
        ({}, [], True),
    ],
)
def test_code_is_recognised_without_loading(tmp_path, flavors, files, executes):
    root = folder(tmp_path, flavors, files)
    assert s.executes_code(s.read_mlmodel(root), root) is executes


LIGHTGBM = {
    "code": None,
    "data": "model.lgb",
    "lgb_version": "4.6.0",
    "model_class": "lightgbm.basic.Booster",
    "serialization_format": "skops",
    "skops_trusted_types": ["lightgbm.basic.Booster"],
}
XGBOOST = {
    "code": None,
    "data": "model.json",
    "model_class": "xgboost.core.Booster",
    "model_format": "json",
    "xgb_version": "3.0.0",
}
SERVED = {"env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}, "python_version": "3.11.7"}


@pytest.mark.parametrize(
    ("flavor", "change"),
    [
        # MLflow calls whatever an XGBoost model names, and unpickles what LightGBM's calls anything but a Booster.
        ("xgboost", {"model_class": "os.abort"}),
        ("xgboost", {"model_class": "xgboost.sklearn.os.abort"}),
        ("xgboost", {"model_class": "xgboost.dask.DaskXGBClassifier"}),
        ("xgboost", {"model_class": ["xgboost.core.Booster"]}),
        ("xgboost", {"model_class": None}),
        ("lightgbm", {"model_class": "lightgbm.sklearn.LGBMClassifier"}),
        ("lightgbm", {"model_class": "xgboost.core.Booster"}),
        ("lightgbm", {"model_class": "lightgbm.basic.Booster "}),
        ("lightgbm", {"model_class": None}),
        ("lightgbm", {"code": "code"}),
        ("lightgbm", {"model_code_path": "model.py"}),
        ("lightgbm", {"data": None}),
        ("lightgbm", {"data": ["model.lgb"]}),
        ("lightgbm", {"data": "s3://bucket/model.lgb"}),
        ("lightgbm", {"data": "./model.lgb"}),
        ("lightgbm", {"data": "/etc/passwd"}),
        ("lightgbm", {"loader_module": "mlflow.sklearn"}),
        ("lightgbm", {"a setting of the next MLflow": "x"}),
        ("python_function", {"loader_module": "mlflow.xgboost"}),
        ("python_function", {"loader_module": "mlflow.lightgbm.os"}),
        ("python_function", {"code": ["code"]}),
        ("python_function", {"predict_fn": "__class__"}),
        ("python_function", {"predict_fn": ["predict"]}),
        ("python_function", {"config": {"a": 1}}),
        ("python_function", {"model_code_path": "model.py"}),
        ("python_function", {"env": {"conda": "../conda.yaml"}}),
        ("python_function", {"env": {"conda": "https://example.org/conda.yaml"}}),
        ("python_function", {"streamable": True}),
        ("top", {"saved_input_example_info": {"artifact_path": "/etc/passwd", "type": "dataframe"}}),
        ("top", {"saved_input_example_info": {"artifact_path": "s3://bucket/x.json", "type": "dataframe"}}),
    ],
)
def test_a_setting_that_names_code_or_a_place_is_code(tmp_path, flavor, change):
    """And so is one that nobody knows: what it makes MLflow do is not known either."""
    native, settings = ("xgboost", XGBOOST) if flavor == "xgboost" else ("lightgbm", LIGHTGBM)
    served = SERVED | {"loader_module": f"mlflow.{native}", "data": settings["data"]}
    flavors = {native: settings, "python_function": served}
    example = {"saved_input_example_info": {"artifact_path": "input_example.json", "type": "dataframe"}}
    (tmp_path / "plain").mkdir()
    plain = folder(tmp_path / "plain", flavors, [settings["data"], "conda.yaml", "input_example.json"], **example)
    assert s.executes_code(s.read_mlmodel(plain), plain) is False, "it is the change alone"
    if flavor == "top":
        example |= change
    else:
        flavors[flavor] = flavors[flavor] | change
    root = folder(tmp_path, flavors, [settings["data"]], **example)
    assert s.executes_code(s.read_mlmodel(root), root) is True


def test_what_an_xgboost_model_names_is_called(tmp_path):
    """Why its class is on a list: MLflow's loader calls any function of the environment."""
    import gc

    import mlflow.xgboost

    root = folder(tmp_path, {"xgboost": {"data": "model.json", "model_class": "gc.disable"}}, ["model.json"])
    assert s.take_local(root, "m", tmp_path / "work").executes_code is True
    try:
        with pytest.raises(AttributeError, match="load_model"):
            mlflow.xgboost.load_model(str(root))
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("kind", "executes"),
    [
        ("lightgbm.Booster", False),
        ("lightgbm.LGBMClassifier", True),
        ("xgboost.Booster", False),
        ("xgboost.XGBClassifier", False),
        ("xgboost.XGBRFClassifier", False),
    ],
)
def test_models_as_mlflow_saves_them(tmp_path, kind, executes):
    """Its own files, with everything that a model may be logged with; what is data loads as it was."""
    import mlflow
    import numpy as np

    library, _, name = kind.partition(".")
    rows = np.random.default_rng(0).normal(size=(60, 3))
    labels = (rows[:, 0] > 0).astype(int)
    module, saver = pytest.importorskip(library), getattr(mlflow, library)
    if kind == "lightgbm.Booster":
        table = module.Dataset(rows, labels, params={"verbosity": -1})
        model = module.train({"objective": "binary", "num_threads": 1, "verbosity": -1}, table, 3)
    elif kind == "xgboost.Booster":
        model = module.train({"objective": "binary:logistic", "nthread": 1}, module.DMatrix(rows, labels), 3)
    else:
        quiet = {"verbosity": -1} if library == "lightgbm" else {}
        model = getattr(module, name)(n_estimators=3, n_jobs=1, **quiet).fit(rows, labels)
    more = {"serialization_format": "skops"} if library == "lightgbm" else {}
    signature = mlflow.models.infer_signature(rows, labels)
    saver.save_model(
        model, str(tmp_path / "m"), pip_requirements=[], signature=signature, metadata={"team": "x"}, **more
    )
    shot = s.take_local(tmp_path / "m", "m", tmp_path / "work")
    assert (shot.flavor, shot.executes_code) == (library, executes)
    if not executes:
        assert type(saver.load_model(str(shot.folder))) is type(model)


def test_a_broken_mlmodel_is_an_error(tmp_path):
    with pytest.raises(CandidateNotFound, match="no MLflow model there"):
        s.read_mlmodel(tmp_path)
    junk = (
        "2024-99-99",
        "!!timestamp x",
        '!!int ""',
        "!!int x",
        "!!bool x",
        "!!float x",
        "? [a]\n: b",
        "[" * 2000,
        "\0",
    )
    for text in ("- a", "flavors: 3", "{", "!!python/object/apply:os.system [id]", *(f"flavors: {j}" for j in junk)):
        (tmp_path / "MLmodel").write_text(text)
        with pytest.raises(UsageError):
            s.read_mlmodel(tmp_path)


# --- the signature ---


def signature(columns):
    return {"signature": {"inputs": json.dumps(columns)}}


def test_the_signature_names_columns_and_their_types(tmp_path):
    columns = [
        {"name": "b", "type": "long", "required": True},
        {"name": "a b", "type": "string"},
        {"name": 0, "type": "double"},
    ]
    found = (("b", "long"), ("a b", "string"), ("0", "double"))
    assert s.inputs(signature(columns)) == found
    root = folder(tmp_path, {"sklearn": {}}, ["model.pkl"], **signature(columns))
    assert s.take(root, "m").inputs == found
    assert InMemoryRegistry().resolve(str(root), tmp_path / "work").inputs == found


@pytest.mark.parametrize(
    "columns",
    [
        [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}],
        [{"name": "a", "type": "tensor", "tensor-spec": {}}, {"name": "b", "type": "tensor", "tensor-spec": {}}],
        [{"type": "double"}],
        [{"name": "a", "type": "long"}, {"name": "a", "type": "long"}],
        [{"name": ["a"], "type": "long"}],
        [{"name": "a", "type": {"b": 1}}],
        [{"name": None, "type": "long"}],
        [["name", "type"]],
        ["name"],
        "name",
        {"name": "a", "type": "long"},
        7,
        None,
        [],
    ],
)
def test_signatures_without_named_columns_give_none(columns):
    assert s.inputs({"flavors": {}, **signature(columns)}) == ()


@pytest.mark.parametrize(
    "mlmodel",
    [{}, {"signature": None}, {"signature": 7}, {"signature": {}}, {"signature": {"inputs": None}}]
    + [{"signature": {"inputs": text}} for text in ("", "[", "[" * 100_000, 7, [1])],
)
def test_junk_in_place_of_a_signature_gives_none(mlmodel):
    assert s.inputs(mlmodel) == ()


def test_a_signature_with_endless_columns_gives_none(monkeypatch):
    monkeypatch.setattr(s, "MOST_INPUTS", 2)
    columns = [{"name": str(i), "type": "long"} for i in range(3)]
    assert s.inputs(signature(columns)) == ()
    assert len(s.inputs(signature(columns[:2]))) == 2
