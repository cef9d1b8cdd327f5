"""Load, describe and query one model. Runs model code: import it in the sandbox's child and in shadow workers only."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import math
import platform
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Description, Outputs
from privacy_gate.errors import DataError, GateError, ModelOutputUnusable, ModuleMissing, NotEvaluable, UnsupportedModel
from privacy_gate.features import AnyFeatures, Features, Stored, batch_rows, blocks, is_frame
from privacy_gate.sandbox import boosters
from privacy_gate.sandbox.answers import Columns, Read, more_than_labels, read, unpacked
from privacy_gate.sandbox.devices import elsewhere, placed
from privacy_gate.sandbox.fitted import as_fitted, not_cloned, refused, searched, told_fit
from privacy_gate.sandbox.outputs import AUTO, BATCH, Form, kind_of
from privacy_gate.sandbox.stages import class_of, last_step

NATIVE = {
    "pytorch": "mlflow.pytorch",
    "sklearn": "mlflow.sklearn",
    "lightgbm": "mlflow.lightgbm",
    "xgboost": "mlflow.xgboost",
    "pyfunc": "mlflow.pyfunc",
}
_MODULES = {"scikit-learn": "sklearn", "lightgbm": "lightgbm", "xgboost": "xgboost"}  # distribution -> module
_LIBRARIES = {
    "pytorch": ("torch",),
    "sklearn": ("scikit-learn", "scipy"),
    "lightgbm": ("lightgbm",),
    "xgboost": ("xgboost",),
}

# Set per shadow or per machine; they are no part of what is trained. LightGBM and XGBoost have many names for them.
SEEDS = frozenset(
    {"random_state", "seed", "random_seed", "data_random_seed", "data_seed", "bagging_seed", "bagging_fraction_seed"}
    | {"feature_fraction_seed", "extra_seed", "drop_seed", "objective_seed"}
)
THREADS = frozenset({"n_jobs", "num_threads", "num_thread", "nthread", "nthreads"})
_NOT_RECIPE = SEEDS | THREADS | {"verbose", "verbosity"}


# --- load -----------------------------------------------------------------------------------------------------------


def load(folder: Path, flavor: str) -> Any:
    """The model in an MLflow model folder, by its native flavor first: pyfunc alone hides probabilities."""
    # MLflow would import Lightning to log trainings, seconds for nothing; a model that needs it imports it itself.
    sys.modules.setdefault("mlflow.pytorch._lightning_autolog", None)  # type: ignore[arg-type]
    try:
        module = importlib.import_module(NATIVE[flavor])
        model = module.load_model(str(folder))
    except ModuleNotFoundError as error:
        raise ModuleMissing(
            f"loading the model needs the module {error.name!r}",
            "install it where the model is loaded, or log the model with it: pip_requirements, code_paths",
        ) from error
    return _unwrap(model) if flavor == "pyfunc" else _ready(model)


def _unwrap(model: Any) -> Any:
    """The object inside a pyfunc if that tells probabilities, or is a Booster; the pyfunc itself where it hides it."""
    try:
        raw = model.get_raw_model()
    except (NotImplementedError, AttributeError):
        return model
    return raw if hasattr(raw, "predict_proba") or boosters.is_booster(raw) else model


def _ready(model: Any) -> Any:
    """A torch module in evaluation mode; exported graphs have their mode built in and refuse to be told."""
    if is_module(model) and not _is_graph(model):
        model.eval()
    return model


def differentiable(model: Any) -> Any:
    """The torch module in evaluation mode, no gradients left from before; raises NotEvaluable where it is none.

    An exported graph comes in a module that feeds it the batch sizes that it takes. Weights that were all frozen before
    the model was logged are thawed, as an attacker who holds the model would do.
    """
    if not is_module(model):
        raise NotEvaluable(
            f"a {type(model).__name__} cannot be differentiated", "only torch modules and exported graphs can"
        )
    import torch

    torch.set_num_threads(1)
    model = placed(model, "cpu") if elsewhere(model) else model
    module = _in_batches(model) if _is_graph(model) else _ready(model)
    weights = [weight for weight in module.parameters() if weight.is_floating_point()]
    if not weights:
        raise NotEvaluable(f"the {type(model).__name__} has no weights that can be differentiated")
    if not any(weight.requires_grad for weight in weights):
        for weight in weights:
            weight.requires_grad_(True)
    module.zero_grad(set_to_none=True)
    return module


def _in_batches(graph: Any) -> Any:
    """A torch module around an exported graph that may take one number of rows only."""
    import torch

    class Batched(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.graph = graph
            self.size: int | None = None  # rows that the graph takes; None: any number

        def forward(self, rows: Any) -> Any:
            if self.size is None:
                try:
                    return _prediction(self.graph(rows))
                except (AssertionError, RuntimeError) as error:
                    frozen = _FROZEN.search(str(error))
                    if frozen is None:
                        raise
                    self.size = int(frozen[1] or frozen[2])
            parts = [rows[i : i + self.size] for i in range(0, len(rows), self.size)]
            return torch.cat([_prediction(self.graph(self._padded(part)))[: len(part)] for part in parts])

        def _padded(self, rows: Any) -> Any:
            size = self.size or len(rows)
            return rows if len(rows) == size else torch.cat([rows] * -(-size // len(rows)))[:size]

    return Batched()


def is_module(model: Any) -> bool:
    """Whether the model is a torch module, exported graphs included."""
    # Asking torch would import it, seconds that a scikit-learn model need not pay.
    return any(c.__module__ == "torch.nn.modules.module" and c.__name__ == "Module" for c in type(model).__mro__)


def _is_graph(model: Any) -> bool:
    return any(c.__module__ == "torch.fx.graph_module" for c in type(model).__mro__)


# --- describe -------------------------------------------------------------------------------------------------------


def describe(model: Any, flavor: str) -> Description:
    """What the loaded model is: kind, class order, the recipe to clone it, library versions."""
    classes = getattr(model, "classes_", None)
    if isinstance(classes, list | tuple):
        raise UnsupportedModel(
            f"{type(model).__name__} predicts several labels at once", "audit one classifier for each label"
        )
    kind = _kind(model)
    if classes is not None and len(classes) < 2:
        raise UnsupportedModel(f"{type(model).__name__} knows one class only", "train it on at least two classes")
    told = recipe(model, unsaved=boosters.loses_settings(flavor))
    return Description(
        flavor=flavor,
        kind=kind,
        classes=None if classes is None else tuple(np.asarray(classes).tolist()),
        recipe=told,
        versions=_versions(flavor, told),
    )


def _kind(model: Any) -> Any:
    if is_module(model):
        return "module"
    if hasattr(model, "get_params"):
        from sklearn.base import is_classifier, is_regressor

        if is_classifier(model):
            return "classifier"
        if is_regressor(model):
            return "regressor"
        if not hasattr(model, "predict_proba"):
            raise UnsupportedModel(
                f"{type(model).__name__} is not a classifier", "the gate audits classifiers with at least two classes"
            )
    return "unknown"


def _versions(flavor: str, told: Mapping[str, Any] | None) -> dict[str, str]:
    """Of the flavor's libraries, and of those whose classes are in the recipe."""
    found = {"python": platform.python_version()}
    parts = {library for library, module in _MODULES.items() if module in _libraries(told)}
    for library in ("mlflow", "numpy", *_LIBRARIES.get(flavor, ()), *sorted(parts)):
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            # Some libraries come under several names (xgboost-cpu): the module itself knows.
            found[library] = str(getattr(sys.modules.get(library), "__version__", "unknown"))
    return found


def _libraries(told: Any) -> set[str]:
    """Top-level modules of all classes in a recipe."""
    if isinstance(told, Mapping):
        own = {told["class"].partition(".")[0]} if isinstance(told.get("class"), str) else set()
        return own.union(*map(_libraries, told.values()))
    return set().union(*map(_libraries, told)) if isinstance(told, list) else set()


def recipe(model: Any, *, unsaved: bool = False) -> dict[str, Any] | None:
    """Canonical, JSON-able description of how to train such a model: equal recipes train equal models.

    class, params  the estimator and its settings (those of a search: of its best estimator)
    fitted         deep names of settings -> values that train as long as the model was trained; where there are any
    fit            what `fit` was told beside the records, as far as the model knows; where there is any
    unsaved        the file has lost the settings; where it has
    refused        what is in the way of training it anew, and the mend; where something is
    searched       whether a search chose the settings, and will not do so again; where that is so

    None if `model` is no scikit-learn estimator and no Booster. Seeds, threads and verbosity are left out.
    unsaved  whether the model comes from XGBoost's own format, which keeps no settings
    """
    if isinstance(model, type):
        return None
    if boosters.is_booster(model):
        return cast("dict[str, Any]", _plain(boosters.described(model, unsaved=unsaved)))
    if not hasattr(model, "get_params"):
        return None
    try:
        unfitted, changes = as_fitted(model, unsaved=unsaved)
    except GateError:
        raise
    except Exception as error:  # somebody else's estimator; it can be audited all the same, with another recipe
        return _estimator(model) | {"refused": list(not_cloned(model, error))}
    final = last_step(model if not hasattr(model, "best_estimator_") else model.best_estimator_)
    beside = {
        "fitted": {name: _canonical(changes[name]) for name in sorted(changes)},
        "fit": told_fit(final),
        "unsaved": unsaved and class_of(final) == "XGBClassifier",
        "refused": refused(model),
        "searched": searched(model) and not searched(unfitted),  # else shadows search, too
    }
    return _estimator(unfitted) | {name: value for name, value in beside.items() if value}


def _plain(told: Any) -> Any:
    """Like `_canonical`, but keeps dictionaries: their keys are names."""
    return {key: _plain(value) for key, value in told.items()} if isinstance(told, dict) else _canonical(told)


def _estimator(model: Any) -> dict[str, Any]:
    params = model.get_params(deep=False)
    return {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "params": {name: _canonical(params[name]) for name in sorted(params) if name not in _NOT_RECIPE},
    }


def _canonical(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):  # what the gate would clean away must not make two recipes look the same
        return value if value.isprintable() else {"text": value.encode("unicode_escape").decode()}
    if isinstance(value, np.generic):
        return _canonical(value.item())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, bool | int | str) for key in value):
        # Keys keep their type: class weights {0: 1} and {"0": 1} train different models.
        return {"items": sorted(([repr(key), _canonical(item)] for key, item in value.items()), key=lambda p: p[0])}
    if isinstance(value, np.ndarray) and value.dtype != object:
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"array": value.dtype.str, "shape": list(value.shape), "sha256": digest}
    if isinstance(value, np.dtype):
        return {"dtype": value.str}
    if isinstance(value, type):
        return {"type": f"{value.__module__}.{value.__qualname__}"}
    if hasattr(value, "get_params"):
        return _estimator(value)
    import cloudpickle

    return {"sha256": hashlib.sha256(cloudpickle.dumps(value)).hexdigest()}


# --- query ----------------------------------------------------------------------------------------------------------


def query(
    model: Any, features: AnyFeatures, form: Form = AUTO, batch_size: int = BATCH, *, device: str = "cpu"
) -> Outputs:
    """[n, K] answers of any model: `answered` without the classes."""
    return answered(model, features, form, batch_size, device=device).outputs


def answered(
    model: Any,
    features: AnyFeatures,
    form: Form = AUTO,
    batch_size: int = BATCH,
    *,
    device: str = "cpu",
    decide: bool = False,
) -> Read:
    """What any model answers: torch module, `predict_proba`, `decision_function`, `predict`, or a callable.

    Margins of models without probabilities count as logits: they say no less than a probability would. Labels are read
    where the config says so; else where nothing but labels can be had, and all of them are known classes.
    device  where a torch module is asked
    decide  as in `answers.read`: of shadows, not of candidates
    """
    if isinstance(features, Stored):
        return _in_blocks(
            lambda block, form: answered(model, block, form, batch_size, device=device, decide=decide), features, form
        )
    own = _own_classes(model)
    if decide and (is_module(model) or hasattr(model, "predict_proba") or hasattr(model, "decision_function")):
        form = form.entire()  # a shadow of another make than the candidate: it answers with its classes alone
    if is_frame(features):
        _require_its_order(model, list(map(str, features.columns)))
    if is_module(model):
        return read(_forward(model, features, batch_size, device), form, len(features), own, decide=decide)
    scores = "predict_proba" if hasattr(model, "predict_proba") else "decision_function"
    if not hasattr(model, scores):
        return read(_ask(model)(features), form, len(features), own, decide=decide)
    if form.kind == "labels":
        if not decide:
            raise more_than_labels()
        if own is not None and hasattr(model, "predict"):
            return read(model.predict(features), form, len(features), own)
    answer = getattr(model, scores)(features)
    if isinstance(answer, list) and answer and np.ndim(answer[0]) > 1:
        raise UnsupportedModel(
            f"{type(model).__name__} predicts several labels at once", "audit one classifier for each label"
        )
    if form.kind != "labels":
        form = form.of("probabilities" if scores == "predict_proba" else "logits")
    return read(answer, form, len(features), own, decide=decide)


def _require_its_order(model: Any, columns: list[str]) -> None:
    """DataError where a boosted model was trained with the columns in another order, or with others."""
    if (wrong := boosters.misplaced(model, columns)) is not None:
        raise DataError(*wrong)


def _own_classes(model: Any) -> tuple[Any, ...] | None:
    """The fitted model's class order; None where it has none."""
    classes = getattr(model, "classes_", None)
    return None if classes is None or isinstance(classes, list | tuple) else tuple(np.asarray(classes).tolist())


def _in_blocks(ask: Callable[[Features, Form], Read], features: Stored, form: Form) -> Read:
    """[n, K] answers about features on disk, block by block; the first block tells what they are."""
    parts: list[Read] = []
    for _, block in blocks(features):
        parts.append(ask(block, form))
        form = form.of(kind_of(parts[0].outputs)) if form.kind == "auto" else form
        if parts[-1].classes != parts[0].classes:
            raise ModelOutputUnusable("the model names other classes from call to call", "it must name all of them")
    values = np.concatenate([part.outputs.values for part in parts])
    resolution = max(part.outputs.resolution for part in parts)
    return Read(Outputs(values, parts[0].outputs.kind, resolution), parts[0].classes)


def _ask(model: Any) -> Callable[[Features], Any]:
    if hasattr(model, "predict"):
        if type(model).__module__.startswith("xgboost") and type(model).__name__ == "Booster":
            xgboost = importlib.import_module("xgboost")
            return lambda features: model.predict(xgboost.DMatrix(features, enable_categorical=is_frame(features)))
        return cast("Callable[[Features], Any]", model.predict)
    if callable(model):
        return cast("Callable[[Features], Any]", model)
    raise ModelOutputUnusable(
        f"an object of type {type(model).__name__} cannot be asked for predictions",
        "return a torch module, an object with predict_proba, or a function of the features",
    )


# A graph exported with one example row accepts that number of rows only, for ever.
_FROZEN = re.compile(r"size\(\)\[0\] == (\d+)|shape\[0\] to be equal to (\d+)")


def _forward(model: Any, features: Features, batch_size: int, device: str = "cpu") -> NDArray[Any]:
    """[n, K] in batches on one thread: the same sums in the same order wherever it runs."""
    import torch

    torch.set_num_threads(1)
    model = _ready(model)
    if device != "cpu" or elsewhere(model):
        model = placed(model, device)
    table = features if isinstance(features, np.ndarray) else features.to_numpy(np.float32)
    n, dtype, floor = len(table), torch.float32, 2 if _is_graph(model) else 1
    batch_size = batch_rows(table, batch_size)
    parts: list[NDArray[Any]] = []
    done = 0
    with torch.inference_mode():
        while done < n:
            rows = np.asarray(table[done : done + batch_size])
            # Exported graphs have dynamic sizes from 2 upwards: a last batch of one row would break their guard.
            padded = rows if len(rows) >= floor else np.concatenate([rows] * -(-floor // len(rows)))[:floor]
            try:
                answer = _tensor(model(torch.as_tensor(padded.copy()).to(device, dtype)))
            except (AssertionError, RuntimeError) as error:
                frozen = _FROZEN.search(str(error))
                if done == 0 and frozen and (size := int(frozen[1] or frozen[2])) != len(padded):
                    batch_size = floor = size
                    continue
                if "indices" in str(error) and dtype is torch.float32 and table.dtype.kind in "iu":
                    dtype = torch.int64  # token ids, not numbers
                    continue
                raise
            if len(padded) == 1 and answer.shape[:1] != (1,):
                floor = 2  # squeeze() takes the axis of the records away, too, where there is one record
                continue
            parts.append(answer[: len(rows)])
            done += len(rows)
    return np.concatenate(parts)


def _tensor(answer: Any) -> NDArray[Any]:
    found = unpacked(_prediction(answer))
    if isinstance(found, Columns):
        raise ModelOutputUnusable("the module answers with a dictionary", "return it under the key logits")
    return found


def _prediction(answer: Any) -> Any:
    """The prediction out of what forward() returned: a tensor, or the first of several, or `.logits`."""
    answer = getattr(answer, "logits", answer)
    return answer[0] if isinstance(answer, list | tuple) else answer


def expected_features(model: Any, folder: Path | None = None) -> int | None:
    """How many feature columns the model says that it takes; None if it does not say."""
    for name in ("n_features_in_", "n_features_"):
        if isinstance(count := getattr(model, name, None), int | np.integer):
            return int(count)
    for name in ("num_feature", "num_features"):
        if callable(count := getattr(model, name, None)):
            return int(count())
    told = None if folder is None else _signature_columns(folder)
    if told is None and is_module(model) and not _is_graph(model):
        # Only asked for after a failure: the first layer that has a width is most likely the one that complained.
        widths = (getattr(part, "in_features", None) for part in model.modules())
        return next((width for width in widths if isinstance(width, int)), None)
    return told


def _signature_columns(folder: Path) -> int | None:
    from mlflow.models import Model

    signature = Model.load(str(folder)).signature
    if signature is None or signature.inputs is None:
        return None
    if not signature.inputs.is_tensor_spec():
        return len(signature.inputs.inputs)
    shapes = [spec.shape for spec in signature.inputs.inputs]
    return int(shapes[0][1]) if len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][1] > 0 else None
