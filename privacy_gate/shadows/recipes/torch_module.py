"""A torch module from the user's factory, trained by the gate on tensors in memory."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Description
from privacy_gate.errors import ConfigError, RecipeFailed, UsageError
from privacy_gate.features import Features
from privacy_gate.request import TorchTraining
from privacy_gate.sandbox.devices import placed
from privacy_gate.shadows.loop import Augment, batches, fit, refuse
from privacy_gate.shadows.recipes import Context, defended, recipe, training_defences
from privacy_gate.shadows.source import Source, failed, locate
from privacy_gate.storage import sha256_of_file

if TYPE_CHECKING:
    import torch

__all__ = ["batches", "fit", "model"]

# Settings that came later: at their defaults they are no part of the identity, so that shadows keep their names.
_LATER = ("augment", "sampler", "precision", "clip", "initial", "frozen", "teacher")
_KEY = "shadows.recipe.training"
_ON_THE_CPU = ("adversarial_regularisation", "dp_sgd")  # they draw numbers, or have a network of their own, there


def _training(context: Context) -> TorchTraining:
    training = context.settings.training
    if training is None:
        raise ConfigError("shadows.recipe.model needs shadows.recipe.training", "say at least training: {epochs: N}")
    if training.schedule == "step" and training.step_size is None:
        raise ConfigError("shadows.recipe.training: schedule: step needs step_size", "say after how many epochs")
    if training.momentum and training.optimizer != "sgd":
        raise ConfigError(
            f"shadows.recipe.training: momentum belongs to sgd, not to {training.optimizer}", "remove one of the two"
        )
    if training.loss == "bce_with_logits" and len(context.class_values) != 2:
        raise ConfigError(
            f"shadows.recipe.training: bce_with_logits is for 2 classes, the data has {len(context.class_values)}",
            "use cross_entropy",
        )
    defences = training_defences(context)
    for defence in defences:
        training = defence.training(training)
    refuse(training, defences)
    if context.runtime.device != "cpu" and (named := [one.title for one in defences if one.title in _ON_THE_CPU]):
        raise UsageError(
            f"the defence {' and '.join(named)} is trained on the CPU only", "leave --device out, or train with"
            " shadows.recipe.python, which may use any device, and say `in_recipe: true`",
        )  # fmt: skip
    return training


def _source(context: Context) -> Source:
    return locate(context.settings.model or "", context.folder, "shadows.recipe.model")


def _identity(context: Context, description: Description | None) -> Mapping[str, Any]:
    training = _training(context)
    told = training.model_dump(mode="json")
    defaults = TorchTraining(epochs=1).model_dump(mode="json")
    told = {name: value for name, value in told.items() if name not in _LATER or value != defaults[name]}
    # Files count by what is in them, wherever they lie.
    if training.augment is not None:
        told["augment"] = locate(training.augment, context.folder, f"{_KEY}.augment").identity()
    if training.initial is not None:
        told["initial"] = sha256_of_file(_file(training.initial, context.folder, f"{_KEY}.initial"))
    if training.teacher is not None:
        told["teacher"] |= {
            "model": locate(training.teacher.model, context.folder, f"{_KEY}.teacher.model").identity(),
            "weights": sha256_of_file(_file(training.teacher.weights, context.folder, f"{_KEY}.teacher.weights")),
        }
    return {**_source(context).identity(), "training": told, **defended(context)}


@recipe(id="model", labels="indices", imports=("torch",), identity=_identity, tuned=True)
def model(features: Features, labels: NDArray[Any], seed: int, context: Context) -> Any:
    """The module of `path.py:factory`, trained as `training:` says; weights, order and dropout come from the seed."""
    import torch

    training, source = _training(context), _source(context)
    init_seed, order_seed = (int(n) for n in np.random.SeedSequence(seed).generate_state(2))
    torch.manual_seed(init_seed)  # weights now, dropout masks later
    module = _made(source)
    if training.initial is not None:
        start(module, _file(training.initial, context.folder, f"{_KEY}.initial"), f"{_KEY}.initial")
    teacher = _teacher(training, context)
    order = torch.Generator().manual_seed(order_seed)
    defences = training_defences(context)
    for defence in defences:
        module = defence.module(module)
    try:
        x, y = _tensor(features, module), _labels(labels)
        reference = (
            None
            if context.reference is None
            else (_tensor(context.reference[0], module), _labels(context.reference[1]))
        )
        if (device := context.runtime.device) != "cpu":
            module, x, y = placed(module, device), x.to(device), y.to(device)
            teacher = None if teacher is None else placed(teacher, device)
            reference = None if reference is None else (reference[0].to(device), reference[1].to(device))
        return fit(
            module, x, y, training, order,
            defences=defences, seed=seed, reference=reference, watch=context.watch,
            augment=_augment(training, context), teacher=teacher,
        )  # fmt: skip
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        # Mostly shapes and label ranges that do not fit the module.
        raise failed(f"training the module of {source.path.name}", error, source.path.parent) from error


# --- what the user brings -------------------------------------------------------------------------------------------


def _made(source: Source) -> torch.nn.Module:
    """What the factory returns."""
    import torch

    try:
        module = source.load()()
    except (Exception, SystemExit) as error:
        raise failed(f"{source.function}()", error, source.path.parent) from error
    if not isinstance(module, torch.nn.Module):
        raise RecipeFailed(
            f"{source.function}() of {source.path.name} returned {type(module).__name__}, not a torch module",
            "return an untrained torch.nn.Module",
        )
    return module


def _augment(training: TorchTraining, context: Context) -> Augment | None:
    if training.augment is None:
        return None
    source = locate(training.augment, context.folder, f"{_KEY}.augment")
    function = source.load()

    def augment(batch: torch.Tensor, draws: torch.Generator) -> Any:
        try:
            return function(batch, draws)
        except (Exception, SystemExit) as error:
            raise failed(f"{source.function}() of {source.path.name}", error, source.path.parent) from error

    return augment


def _teacher(training: TorchTraining, context: Context) -> torch.nn.Module | None:
    """The trained teacher; what its factory draws does not change what the module draws."""
    if training.teacher is None:
        return None
    import torch

    with torch.random.fork_rng(devices=[]):
        teacher = _made(locate(training.teacher.model, context.folder, f"{_KEY}.teacher.model"))
    key = f"{_KEY}.teacher.weights"
    start(teacher, _file(training.teacher.weights, context.folder, key), key)
    return teacher


def _file(path: str, folder: Path, key: str) -> Path:
    found = (folder / path).resolve()
    if not found.is_file():
        raise ConfigError(f"{key}: there is no file {found}", f"paths start at {folder.resolve()}")
    return found


def start(module: torch.nn.Module, path: Path, key: str) -> None:
    """Put the weights of a state_dict into the module: all of them, and no others. Raises RecipeFailed.

    key  of the config, to name
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise RecipeFailed(
            f"{key}: {path.name} cannot be read as weights ({type(error).__name__})",
            "write it with torch.save(module.state_dict(), path): tensors by name, and no other objects",
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise RecipeFailed(
            f"{key}: {path.name} holds no state_dict", "write it with torch.save(module.state_dict(), path)"
        )
    own = module.state_dict()
    problems = [
        _counted([name for name in own if name not in state], "missing"),
        _counted([name for name in state if name not in own], "unexpected"),
        _counted([name for name in own if name in state and own[name].shape != state[name].shape], "of another shape"),
    ]
    if any(problems):
        raise RecipeFailed(
            f"{key}: {path.name} does not fit the module: {', '.join(filter(None, problems))}",
            "save the state_dict of the whole module that the factory makes",
        )
    module.load_state_dict(dict(state))


def _counted(names: list[str], what: str) -> str:
    return f"{len(names)} weights {what} ({names[0]}{', ...' if len(names) > 1 else ''})" if names else ""


# --- tensors --------------------------------------------------------------------------------------------------------


def _labels(labels: NDArray[Any]) -> torch.Tensor:
    import torch

    return torch.as_tensor(np.array(labels, dtype=np.int64))


def _tensor(features: Features, module: torch.nn.Module) -> torch.Tensor:
    """[n, ...] float32, as the candidate is asked too; int64 where the module looks its inputs up in a table."""
    import torch

    array = features if isinstance(features, np.ndarray) else _numbers(features)
    if array.dtype.kind not in "fiub":
        raise RecipeFailed(f"features of type {array.dtype} do not fit into a tensor", "encode them as numbers first")
    x = torch.as_tensor(np.array(array, dtype=np.float32))
    if array.dtype.kind not in "iu":
        return x
    try:
        with torch.inference_mode():
            module.eval()(x[:2])
    except RuntimeError as error:
        if "indices" in str(error):
            return torch.as_tensor(np.array(array, dtype=np.int64))
        raise
    return x


def _numbers(frame: Any) -> NDArray[Any]:
    """[n, columns] of a frame of numbers, int64 where all of them are integers; RecipeFailed where one is no number."""
    from pandas.api import types

    strange = [dtype for dtype in frame.dtypes if not types.is_numeric_dtype(dtype)]
    if strange:
        raise RecipeFailed(
            f"{len(strange)} of {frame.shape[1]} feature columns are no numbers (the first is of type"
            f" {strange[0].name}): they do not fit into a tensor",
            "encode them as numbers in the data, or train with a function of your own: shadows.recipe.python",
        )
    integers = all(types.is_integer_dtype(dtype) for dtype in frame.dtypes)
    return frame.to_numpy(np.int64 if integers else np.float32)  # type: ignore[no-any-return]
