"""What a recipe lacks is said before the model is loaded, where its own MLmodel file tells."""

from types import SimpleNamespace

import pytest

from privacy_gate.errors import UsageError
from privacy_gate.preparation import _require_params
from privacy_gate.request import Config

DATA = {"members": "a.csv", "nonmembers": "b.csv"}


@pytest.mark.parametrize(
    ("made", "shadows", "refused"),
    [
        ("xgboost.core.Booster", {}, True),
        ("xgboost.sklearn.XGBClassifier", {"recipe": {"clone": True}}, True),
        ("xgboost.sklearn.XGBRFClassifier", {}, False),
        ("xgboost.core.Booster", {"recipe": {"clone": True, "fit": {"keywords": {"params": {}}}}}, False),
        ("xgboost.core.Booster", {"recipe": {"python": "train.py:train"}}, False),
        ("xgboost.core.Booster", {"count": 0}, False),
    ],
)
def test_settings_that_the_file_lost(tmp_path, made, shadows, refused):
    (tmp_path / "MLmodel").write_text(f"flavors: {{xgboost: {{data: model.ubj, model_class: {made}}}}}\n")
    config = Config.model_validate({"apiVersion": "privacy-gate/v1", "data": DATA, "shadows": shadows})
    candidate = SimpleNamespace(flavor="xgboost", snapshot=tmp_path)
    if refused:
        with pytest.raises(UsageError, match="keeps the trees, not the settings"):
            _require_params(config, candidate)
    else:
        _require_params(config, candidate)
    _require_params(config, SimpleNamespace(flavor="sklearn", snapshot=tmp_path / "none"))
