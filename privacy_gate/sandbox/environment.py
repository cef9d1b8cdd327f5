"""What a process that runs the code of strangers sees of the gate's environment: an allow-list, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

# Everything else stays out: tokens, credentials, proxies, PYTHON* and MLFLOW_* settings.
_PASSED = frozenset({"PATH", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TZ"})
_PASSED_PREFIXES = ("LC_", "OPENBLAS_")
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def clean_environment(own: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The child's whole environment.

    own      the gate's own
    scratch  private folder that the child may write to: its HOME and TMPDIR
    """
    kept = {k: v for k, v in own.items() if k in _PASSED or k.startswith(_PASSED_PREFIXES)}
    kept |= dict.fromkeys(_ONE_THREAD, "1")
    return kept | {"HOME": str(scratch), "TMPDIR": str(scratch), "MLFLOW_DISABLE_TELEMETRY": "true"}
