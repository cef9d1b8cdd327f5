"""Load, describe and query one model. Runs model code: import it in the sandbox's child and in shadow workers only."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import math
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Description, Outputs
from privacy_gate.errors import ModelOutputUnusable, NotEvaluable, UnsupportedModel
from privacy_gate.features import Features
from privacy_gate.sandbox.outputs import AUTO, BATCH, Form, checked

NATIVE = {
    "pytorch": "mlflow.pytorch",
    "sklearn": "mlflow.sklearn",
    "lightgbm": "mlflow.lightgbm",
    "xgboost": "mlflow.xgboost",
    "pyfunc": "mlflow.pyfunc",
}
_LIBRARIES = {
    "pytorch": ("torch",),
    "sklearn": ("scikit-learn", "scipy"),
    "lightgbm": ("lightgbm",),
    "xgboost": ("xgboost",),
}

# Set per shadow (seed) or per machine; they are no part of what is trained.
_NOT_RECIPE = frozenset({"random_state", "n_jobs", "verbose"})


# --- load -----------------------------------------------------------------------------------------------------------


def load(folder: Path, flavor: str) -> Any:
    """The model in an MLflow model folder, by its native flavor first: pyfunc alone hides probabilities."""
    try:
        module = importlib.import_module(NATIVE[flavor])
        model = module.load_model(str(folder))
    except ModuleNotFoundError as error:
        raise ModelOutputUnusable(
            f"loading the model needs the module {error.name!r}",
            "install it beside the gate, or log the model with code_paths",
        ) from error
    return _unwrap(model) if flavor == "pyfunc" else _ready(model)


def _unwrap(model: Any) -> Any:
    """The object inside a pyfunc if that tells probabilities; the pyfunc itself where it hides its inside."""
    try:
        raw = model.get_raw_model()
    except (NotImplementedError, AttributeError):
        return model
    return raw if hasattr(raw, "predict_proba") else model


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
    return Description(
        flavor=flavor,
        kind=kind,
        classes=None if classes is None else tuple(np.asarray(classes).tolist()),
        recipe=recipe(model),
        versions=_versions(flavor),
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


def _versions(flavor: str) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for library in ("mlflow", "numpy", *_LIBRARIES.get(flavor, ())):
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "unknown"
    return found


def recipe(model: Any) -> dict[str, Any] | None:
    """Canonical, JSON-able description of a scikit-learn estimator: equal recipes train equal models.

    None if `model` is no such estimator. Seeds, threads and verbosity are left out.
    """
    return _estimator(model) if hasattr(model, "get_params") and not isinstance(model, type) else None


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
    model: Any, features: Features, form: Form = AUTO, batch_size: int = BATCH, *, device: str = "cpu"
) -> Outputs:
    """[n, K] answers of any model: torch module, `predict_proba`, `decision_function`, `predict`, or a callable.

    Margins of models without probabilities count as logits: they say no less than a probability would.
    device  where a torch module is asked
    """
    n, kind = len(features), form.kind
    if is_module(model):
        return checked(_forward(model, features, batch_size), kind, n)
    if hasattr(model, "predict_proba"):
        answer = model.predict_proba(features)
        if isinstance(answer, list):
            raise UnsupportedModel(
                f"{type(model).__name__} predicts several labels at once", "audit one classifier for each label"
            )
        return checked(_array(answer), "probabilities", n)
    if hasattr(model, "decision_function"):
        return checked(_array(model.decision_function(features)), "logits", n)
    return checked(_array(_ask(model)(features)), kind, n)


def _ask(model: Any) -> Callable[[Features], Any]:
    if hasattr(model, "predict"):
        if type(model).__module__.startswith("xgboost") and type(model).__name__ == "Booster":
            xgboost = importlib.import_module("xgboost")
            return lambda features: model.predict(xgboost.DMatrix(features))
        return cast("Callable[[Features], Any]", model.predict)
    if callable(model):
        return cast("Callable[[Features], Any]", model)
    raise ModelOutputUnusable(
        f"an object of type {type(model).__name__} cannot be asked for predictions",
        "return a torch module, an object with predict_proba, or a function of the features",
    )


def _array(answer: Any) -> NDArray[Any]:
    if isinstance(answer, Mapping):
        answer = next((answer[key] for key in ("logits", "probabilities", "probs", "scores") if key in answer), answer)
    if hasattr(answer, "detach"):
        answer = answer.detach().cpu()
    return np.asarray(answer)


# A graph exported with one example row accepts that number of rows only, for ever.
_FROZEN = re.compile(r"size\(\)\[0\] == (\d+)|shape\[0\] to be equal to (\d+)")


def _forward(model: Any, features: Features, batch_size: int) -> NDArray[Any]:
    """[n, K] in batches on one thread: the same sums in the same order wherever it runs."""
    import torch

    torch.set_num_threads(1)
    model = _ready(model)
    table = features if isinstance(features, np.ndarray) else features.to_numpy(np.float32)
    n, dtype, floor = len(table), torch.float32, 2 if _is_graph(model) else 1
    parts: list[NDArray[Any]] = []
    done = 0
    with torch.inference_mode():
        while done < n:
            rows = np.asarray(table[done : done + batch_size])
            # Exported graphs have dynamic sizes from 2 upwards: a last batch of one row would break their guard.
            padded = rows if len(rows) >= floor else np.concatenate([rows] * -(-floor // len(rows)))[:floor]
            try:
                answer = _tensor(model(torch.as_tensor(padded.copy()).to(dtype)))
            except (AssertionError, RuntimeError) as error:
                frozen = _FROZEN.search(str(error))
                if done == 0 and frozen and (size := int(frozen[1] or frozen[2])) != len(padded):
                    batch_size = floor = size
                    continue
                if "indices" in str(error) and dtype is torch.float32 and table.dtype.kind in "iu":
                    dtype = torch.int64  # token ids, not numbers
                    continue
                raise
            parts.append(answer[: len(rows)])
            done += len(rows)
    return np.concatenate(parts)


def _tensor(answer: Any) -> NDArray[Any]:
    return _array(_prediction(answer))


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
