"""What a caller asks for. Built alike by the command line, the webhook and the Python API; unknown keys are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

API_VERSION: Literal["privacy-gate/v1"] = "privacy-gate/v1"


class Settings(BaseModel):
    """Base of everything a person writes: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(value: Any) -> Any:
    """Seconds from `90`, `"90s"`, `"15m"` or `"2h"`; anything else is left for the validator to refuse."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", value)
        if match is None:
            raise ValueError("not a duration: write 90s, 15m or 2h")
        return float(match[1]) * _UNITS[match[2] or "s"]
    return value


Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Source(Settings):
    """One set of records: a `.npz`, `.csv` or `.parquet` file, or such a file among a run's artifacts (`runs:/...`)."""

    path: str
    sha256: Sha256 | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class DataManifest(Settings):
    """Which records were members, which were not, and what their columns mean.

    In an .npz, `x` is the feature array, and `label`, `id`, `person`, `groups` name arrays beside it.
    """

    members: Source
    nonmembers: Source
    population: Source | None = Field(None, description="records of the same kind that nobody was trained on")
    seen: Source | None = Field(None, description="validation or early-stopping records: used as neither")
    label: str = Field("y", description="column (or .npz array) of the class label")
    classes: list[str | int | float | bool] | None = Field(
        None, description="class order; the candidate's classes_ win if set"
    )
    id: str | None = None
    person: str | None = Field(None, description="column of the data subject; everything that splits, splits by it")
    groups: list[str] = []
    features: list[str] | None = Field(None, description="feature columns; default: all that are left")
    drop: list[str] = Field([], description="columns that are not features")
    missing: Literal["refuse", "allow"] = Field("refuse", description="allow: the model itself handles missing values")
    train_size: int | None = Field(None, gt=0, description="records the target was trained on, if members are a sample")


class TorchTraining(Settings):
    """How a shadow of a PyTorch candidate is trained."""

    loss: Literal["cross_entropy", "nll", "bce_with_logits"] = "cross_entropy"
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)
    epochs: int = Field(gt=0)
    batch_size: int = Field(64, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    schedule: Literal["constant", "cosine", "step"] = "constant"
    step_size: int | None = Field(None, gt=0, description="epochs between two steps of schedule: step")
    gamma: float = Field(0.1, gt=0, le=1)


class Recipe(Settings):
    """How shadows are made. With nothing given, the fitted scikit-learn estimator is cloned."""

    clone: bool = Field(False, description="clone the candidate's own estimator (the default for scikit-learn)")
    model: str | None = Field(None, description="path.py:factory, called without arguments, returns a torch module")
    training: TorchTraining | None = None
    python: str | None = Field(None, description="path.py:train, called as train(features, labels, *, seed)")
    load: str | None = Field(None, description="an .npz of finished shadows: probs or logits [S,U,K], member [S,U]")

    @model_validator(mode="after")
    def _one_way(self) -> Recipe:
        ways = [w for w in ("clone", "model", "python", "load") if getattr(self, w)]
        if len(ways) > 1:
            raise ValueError(f"choose one of clone, model, python, load; got {' and '.join(ways)}")
        if (self.model is None) != (self.training is None):
            raise ValueError("model: and training: go together")
        return self


class Shadows(Settings):
    """How many shadow models, on which records, trained how."""

    count: int = Field(16, ge=0, le=1024)
    plan: Literal["balanced", "disjoint"] = "balanced"
    recipe: Recipe = Recipe()
    timeout: Duration = Field(1800.0, description="for one shadow, and for all probes of the candidate")
    retries: int = Field(2, ge=0, description="how often a shadow is tried again after its worker died")


class FrontierSettings(Settings):
    """Where the stages of the undefended model come from, for the early-stopping benchmark."""

    source: Literal["retraining", "staged", "checkpoints"] = Field(
        "retraining", description="one watched retraining; the candidate's own rounds; models that the run logged"
    )
    checkpoints: list[str] = Field([], description="models:/ or runs:/ URIs, in the order of training")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"source": value}
        if isinstance(value, dict) and "checkpoints" in value:
            return {"source": "checkpoints", **value}
        return value

    @model_validator(mode="after")
    def _complete(self) -> FrontierSettings:
        if (self.source == "checkpoints") != bool(self.checkpoints):
            raise ValueError("checkpoints: lists the models of `source: checkpoints`, and only those")
        return self


class Config(Settings):
    """privacy-gate.yaml."""

    api_version: Literal["privacy-gate/v1"] = Field(API_VERSION, alias="apiVersion")
    model: str | None = None
    tracking_uri: str | None = None
    registry_uri: str | None = None
    data: DataManifest
    output: Literal["auto", "logits", "probabilities"] = "auto"
    shadows: Shadows = Shadows()
    defence: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="what the model was trained with, or is released behind, in this order"
    )
    frontier: FrontierSettings | None = Field(None, description="run the early-stopping benchmark")
    compare: list[dict[str, dict[str, Any]]] = Field([], description="defences that `defences compare` tries")
    attacks: list[str] | None = Field(None, min_length=1, description="default: the suite's")
    policy: str | None = Field(None, description="policy file, relative to this one")
    waivers: str | None = Field(None, description="waiver file, relative to this one; default: the policy's")
    baseline: str | None = Field(None, description="an approved model (models:/NAME@champion) or its report.json")
    store: str | None = None
    seed: int = Field(0, ge=0, lt=2**32)


class CheckRequest(BaseModel):
    """One run of the gate, fully specified: a model with its config, or predictions alone."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    model: str | None = None
    config: Config | None = None
    config_dir: Path = Path()  # relative paths in the config start here
    observations: Path | None = None
    policy: Path | None = None
    profile: Literal["strict", "standard", "internal"] | None = None
    suite: Literal["fast", "full", "deep"] = "full"
    store: Path | None = None
    out: Path = Path("privacy-gate-report")
    formats: tuple[str, ...] = ("json", "html", "markdown")
    seed: int | None = None
    jobs: int | None = Field(None, gt=0)
    budget: float | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    baseline: str | None = None
    waivers: Path | None = None
    records: Literal["none", "restricted"] = "none"
    exit_zero: bool = False
    mlflow_log: bool = True
