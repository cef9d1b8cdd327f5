"""Everything that can go wrong, drawn as a tree; each class owns an exit code.

GateError
├── UsageError            2  the caller asked for something that cannot be done as asked
│   ├── ConfigError          a policy or configuration file is wrong (file:line:column)
│   ├── DataError            the data manifest or what it points at is wrong
│   ├── CandidateNotFound    no such model, version, alias or run
│   └── UnsupportedModel     regression, ranking, multi-label, generative models
├── EvaluationFailed      3  the evaluation broke; nothing is known about the model
│   ├── RegistryUnreachable
│   ├── ModelOutputUnusable
│   │   └── ModuleMissing    what the model imports is not there
│   ├── RecipeFailed
│   ├── WorkerDied
│   └── StorageFailed
└── NotEvaluable          4  the evaluation ran, the evidence cannot carry a verdict

A violated policy is not an error: it is a verdict (exit code 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """What a pipeline obeys."""

    PASS = 0
    VIOLATED = 1
    USAGE = 2
    FAILED = 3
    INCONCLUSIVE = 4
    INTERRUPTED = 130


class GateError(Exception):
    """An expected failure: `what` (and where) happened, and `hint`, the mend."""

    exit_code = ExitCode.FAILED

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n  hint: {self.hint}" if self.hint else self.what

    def __reduce__(self) -> tuple[type[GateError], tuple[str, str]]:
        # Exceptions with several arguments do not survive the way back from a worker process by default.
        return type(self), (self.what, self.hint)


class UsageError(GateError):
    """The request cannot be served as asked."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding in a file a person wrote; `line` and `column` count from 1."""

    file: str
    line: int
    column: int
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: error[{self.code}]: {self.message}"


class ConfigError(UsageError):
    """A policy or configuration file is wrong; every finding names its line."""

    def __init__(self, what: str, hint: str = "", diagnostics: Sequence[Diagnostic] = ()) -> None:
        super().__init__(what, hint)
        self.diagnostics = tuple(diagnostics)

    @classmethod
    def at(cls, diagnostics: Sequence[Diagnostic], hint: str = "") -> ConfigError:
        """One error out of all findings in a file, so that a person mends them in one go."""
        return cls("\n".join(str(d) for d in diagnostics), hint, diagnostics)


class DataError(UsageError):
    """The data manifest, or a file it names, cannot be used."""


class CandidateNotFound(UsageError):
    """The registry answered, and has no such model."""


class UnsupportedModel(UsageError):
    """The candidate is not a classifier with at least two classes."""


class EvaluationFailed(GateError):
    """The evaluation broke before it could say anything about the model."""

    exit_code = ExitCode.FAILED


class RegistryUnreachable(EvaluationFailed):
    """The registry did not answer."""


class ModelOutputUnusable(EvaluationFailed):
    """The candidate or a shadow answered with something that is not a prediction."""


class ModuleMissing(ModelOutputUnusable):
    """A model imports a module that is not there where it is loaded."""


class RecipeFailed(EvaluationFailed):
    """Training a shadow model raised, hung or returned something that is not a model."""


class WorkerDied(EvaluationFailed):
    """A worker process ended without a result."""


class StorageFailed(EvaluationFailed):
    """A disk is full or cannot be read or written."""


class NotEvaluable(GateError):
    """The evidence cannot carry a verdict: too few records, a missing class, constant outputs."""

    exit_code = ExitCode.INCONCLUSIVE
