"""The user's own training function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from privacy_gate.datamodel import Description
from privacy_gate.errors import GateError, RecipeFailed, UsageError
from privacy_gate.features import Features
from privacy_gate.shadows.recipes import Context, recipe, training_defences
from privacy_gate.shadows.source import Source, failed, locate


def _source(context: Context) -> Source:
    return locate(context.settings.python or "", context.folder, "shadows.recipe.python")


def _identity(context: Context, description: Description | None) -> Mapping[str, Any]:
    if chosen := training_defences(context):
        raise UsageError(
            f"the defence {chosen[0].title} cannot be put on your training function: it alone knows how it trains",
            f"train with it in {context.settings.python} and say `in_recipe: true`, or choose another recipe",
        )
    return _source(context).identity()


@recipe(id="python", labels="values", imports=(), identity=_identity)
def python(features: Features, labels: NDArray[Any], seed: int, context: Context) -> Any:
    """The function `path.py:train` of the config, called as `train(features, labels, seed=seed)`.

    It gets the shadow's feature rows (array or frame, as in the data) and their label values (as in the data), must
    draw all randomness from `seed`, and returns a fitted scikit-learn classifier, a torch module in the candidate's
    column order, or a callable features -> [n, K]. A Lightning module is a torch module: its `forward` answers, on
    float32 rows, whatever its steps do. Its Trainer needs `accelerator="cpu", devices=1` and a seed
    (`seed_everything(seed % 2**32)`). The working folder is a scratch folder that goes when the shadows are trained,
    with the logs and checkpoints that trainers leave there; what is printed goes to a private log.
    """
    source = _source(context)
    train = source.load()
    try:
        model = train(features, labels, seed=seed)
    except GateError:
        raise
    except (Exception, SystemExit) as error:
        raise failed(f"{source.function}()", error, source.path.parent) from error
    if model is None or not (callable(model) or hasattr(model, "predict_proba")):
        raise RecipeFailed(
            f"{source.function}() of {source.path.name} returned {type(model).__name__}, which is not a model",
            "return a fitted classifier with predict_proba, a torch module, or a callable features -> [n, K]",
        )
    return model
