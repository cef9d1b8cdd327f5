"""What a caller asks for. Built alike by the command line, the webhook and the Python API; unknown keys are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

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
    """One set of records: a file, a folder, a URL, an artifact of a run (`runs:/...`), or a function that makes it."""

    path: str | None = Field(None, description="file or folder, relative to the config; a URL; or runs:/RUN/artifact")
    dataset: str | None = Field(None, description="path.py:function, called without arguments in a process of its own")
    format: str | None = Field(None, description="reader of the path; default: by its name and content")
    sha256: Sha256 | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("name a path: or a dataset:, one of the two")
        if self.dataset is not None and (self.format or self.sha256):
            raise ValueError("format: and sha256: belong to a path:, not to a dataset:")
        return self

    @property
    def shown(self) -> str:
        """What messages call it."""
        return self.path or self.dataset or ""


class Column(Settings):
    """The type of one feature column, the same in all sets."""

    dtype: str = Field(description="integer, float, boolean, string, category, datetime, or a pandas dtype")
    levels: list[str | int | float | bool] | None = Field(
        None, description="levels of a category, in the model's order; default: all values of all sets, sorted"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"dtype": value} if isinstance(value, str) else value


class ImageTransform(Settings):
    """How image files become arrays: declared, so that the model gets what it was trained on."""

    size: tuple[int, int] | None = Field(None, description="height and width to resize to; default: as they are")
    mode: Literal["RGB", "L"] = "RGB"
    layout: Literal["CHW", "HWC"] = "CHW"
    scale: float = Field(255.0, gt=0, description="pixels are divided by it")
    mean: list[float] | None = Field(None, description="subtracted per channel, after scaling")
    std: list[float] | None = Field(None, description="divided by per channel, after that")


class DataManifest(Settings):
    """Which records were members, which were not, and what their columns mean.

    Where records are arrays, `x` is the feature array, and `label`, `id`, `person`, `groups` name arrays beside it.
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
    weight: str | None = Field(None, description="column of the sample weight that training used; no feature")
    features: list[str] | None = Field(
        None,
        description="feature columns; default: those of the schema, or of the model's signature, or all that are left",
    )
    columns: dict[str, Column] | None = Field(
        None,
        alias="schema",
        min_length=1,
        description="types and order of the feature columns, as the model takes them",
    )
    images: ImageTransform | None = Field(None, description="how image files become arrays")
    env: list[str] = Field([], description="environment variables that a dataset: function sees")
    drop: list[str] = Field([], description="columns that are not features")
    missing: Literal["refuse", "allow"] = Field("refuse", description="allow: the model itself handles missing values")
    train_size: int | None = Field(None, gt=0, description="records the target was trained on, if members are a sample")


class Teacher(Settings):
    """A model that the candidate was distilled from."""

    model: str = Field(description="path.py:factory, called without arguments, returns a torch module")
    weights: str = Field(description="its state_dict, a file written by torch.save")
    temperature: float = Field(1.0, gt=0)
    share: float = Field(0.5, ge=0, le=1, description="of the loss that imitates the teacher")


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
    augment: str | None = Field(None, description="path.py:function, called as f(batch, generator), on each batch")
    sampler: Literal["shuffle", "balanced"] = Field(
        "shuffle", description="balanced: classes equally often, with replacement"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="bfloat16, float16: autocast; in float16, the loss is scaled so that no gradient vanishes",
    )
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient of a batch")
    initial: str | None = Field(
        None, description="a state_dict that training started from, a file written by torch.save"
    )
    frozen: list[str] = Field([], description="name patterns of parameters that are not trained, e.g. backbone.*")
    teacher: Teacher | None = None


class Fit(Settings):
    """What the training script gave to `fit` beside the records and their labels."""

    eval_set: Literal["seen"] | float | None = Field(
        None,
        description="seen: data.seen; or the share of a shadow's records, by person, that is held out for it: right"
        " where data.members holds the records that the training held out as well",
    )
    sample_weight: Literal["balanced", "weight"] | None = Field(
        None, description="balanced: classes weigh the same; weight: data.weight"
    )
    callbacks: str | None = Field(None, description="path.py:function, called without arguments, returns a list")
    keywords: dict[str, Any] = Field({}, description="further keyword arguments, as they are")


class Head(Settings):
    """Refit the last layer of the candidate itself on its own, unchanged, features: cheap where training is not."""

    frozen: bool = Field(
        False, description="true: the features were never trained on these records, so refitted heads are its own kind"
    )
    epochs: int = Field(100, gt=0)
    learning_rate: float = Field(1e-2, gt=0)
    weight_decay: float = Field(0.0, ge=0)


class LoadedModel(Settings):
    """A model that exists already, trained by the same recipe on other records: a fold's, or an earlier version."""

    model: str = Field(description="models:/, runs:/ or an MLflow model folder")
    members: Source = Field(description="table with the column data.id: the records that it was trained on")


class Recipe(Settings):
    """How shadows are made. With nothing given, the fitted scikit-learn estimator is cloned."""

    clone: bool = Field(False, description="clone the candidate's own estimator (the default for scikit-learn)")
    model: str | None = Field(None, description="path.py:factory, called without arguments, returns a torch module")
    training: TorchTraining | None = None
    python: str | None = Field(None, description="path.py:train, called as train(features, labels, *, seed)")
    command: list[str] | None = Field(
        None, min_length=1, description="argv with {train} {validation} {records} {out} {seed}; leaves a model in {out}"
    )
    head: Head | None = None
    load: str | list[LoadedModel] | None = Field(
        None,
        description="an .npz of finished shadows: probs or logits [S,U,K], member [S,U]; or models and their members",
    )
    fit: Fit | None = Field(None, description="of clone: what else training gave to fit()")
    inputs: list[str] = Field([], description="of command: files (or patterns) that it reads; they enter the store key")
    env: list[str] = Field([], description="of command: environment variables that it sees")
    files: Literal["parquet", "csv", "npz"] | None = Field(
        None, description="of command: format of its records; default: parquet for tables, npz for arrays"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Recipe:
        names = ("clone", "model", "python", "command", "head", "load")
        ways = [w for w in names if getattr(self, w)]
        if len(ways) > 1:
            raise ValueError(f"choose one of {', '.join(names)}; got {' and '.join(ways)}")
        if (self.model is None) != (self.training is None):
            raise ValueError("model: and training: go together")
        if self.fit is not None and ways and not self.clone:
            raise ValueError(f"fit: belongs to clone, not to {ways[0]}")
        if self.command is None and (self.inputs or self.env or self.files):
            raise ValueError("inputs:, env: and files: belong to command")
        return self


class Shadows(Settings):
    """How many shadow models, on which records, trained how."""

    count: int = Field(16, ge=0, le=1024)
    plan: Literal["balanced", "disjoint"] = "balanced"
    recipe: Recipe = Recipe()
    timeout: Duration = Field(1800.0, description="for one shadow, and for all probes of the candidate")
    retries: int = Field(2, ge=0, description="how often a shadow is tried again after its worker or command died")
    proxy: str | None = Field(
        None,
        min_length=1,
        description="why the recipe is not the candidate's own: it may fail the model, never pass it",
    )


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


class Output(Settings):
    """How the candidate's answers are to be read, where the gate cannot tell."""

    kind: Literal["auto", "logits", "probabilities", "labels"] = "auto"
    classes: list[str | int | float | bool] | None = Field(
        None, min_length=2, description="class values in the order of the columns; default: data.classes"
    )
    positive: str | int | float | bool | None = Field(
        None, description="class that a one-column score is about; default: the second one"
    )
    column: str | int | list[str | int] | None = Field(
        None,
        description="the one column that is read: its name or, in an array, its index from 0; or a list, one column per"
        " class in the order of classes",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("column", mode="before")
    @classmethod
    def _names_or_indices(cls, value: Any) -> Any:
        listed = value if isinstance(value, list) else [value]
        if value is not None and not all(type(one) is str or (type(one) is int and one >= 0) for one in listed):
            raise ValueError("a column is a name, in quotes if it looks like something else, or an index from 0")
        if isinstance(value, list) and (len(value) < 2 or len(set(value)) < len(value)):
            raise ValueError("a list names a column for each of two or more classes, none of them twice")
        return value

    @model_validator(mode="after")
    def _one_per_class(self) -> Output:
        if isinstance(self.column, list):
            if self.classes is not None and len(self.classes) != len(self.column):
                raise ValueError(f"column: lists {len(self.column)} columns, classes: {len(self.classes)} classes")
            if self.positive is not None:
                raise ValueError("positive: says what a one-column score is about; column: lists one per class")
        return self


class AuditSample(Settings):
    """Score a sample of persons, drawn by lot within each class, instead of everybody."""

    members: int | None = Field(None, gt=0, description="records, about: whole persons are drawn")
    nonmembers: int | None = Field(None, gt=0)


class Config(Settings):
    """privacy-gate.yaml."""

    api_version: Literal["privacy-gate/v1"] = Field(API_VERSION, alias="apiVersion")
    model: str | None = None
    tracking_uri: str | None = None
    registry_uri: str | None = None
    data: DataManifest
    output: Output = Output()
    audit: AuditSample | None = Field(None, description="score a sample of the records; default: all of them")
    environment: str = Field(
        "current", description="interpreter of model code: current; model (its own requirements, cached); or a path"
    )
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
    trust: Literal["data", "code"] = "code"  # data: a candidate that runs code when it is loaded is refused
    notes: tuple[str, ...] = ()  # of whoever asks, for the report's warnings
    exit_zero: bool = False
    mlflow_log: bool = True
