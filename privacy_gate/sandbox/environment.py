"""What a process that runs the code of strangers sees of the gate's environment: an allow-list, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from privacy_gate.sandbox.runtime import HERE, Runtime

# Everything else stays out: tokens, credentials, proxies, PYTHON* and MLFLOW_* settings.
_PASSED = frozenset({"PATH", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TZ"})
_PASSED_PREFIXES = ("LC_", "OPENBLAS_")
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_GPU = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES")


def clean_environment(own: Mapping[str, str], scratch: Path, runtime: Runtime = HERE) -> dict[str, str]:
    """The child's whole environment.

    own      the gate's own
    scratch  private folder that the child may write to: its HOME and TMPDIR
    runtime  whose programs come first on the PATH where it is another interpreter than the gate's
    """
    kept = {k: v for k, v in own.items() if k in _PASSED or k.startswith(_PASSED_PREFIXES)}
    kept |= dict.fromkeys(_ONE_THREAD, "1")
    if runtime.python is not None:
        kept = _elsewhere(kept, runtime.python)
    if runtime.device == "cuda":
        kept |= {k: own[k] for k in _GPU if k in own}
        kept["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it cuBLAS may sum in another order each time
    kept["NUMBA_CACHE_DIR"] = str(scratch)
    return kept | {"HOME": str(scratch), "TMPDIR": str(scratch), "MLFLOW_DISABLE_TELEMETRY": "true"}


def _elsewhere(kept: dict[str, str], python: Path) -> dict[str, str]:
    """For another interpreter: its own folder of programs, and its own VIRTUAL_ENV if it is one."""
    path = os.pathsep.join([str(python.parent), *([kept["PATH"]] if kept.get("PATH") else [])])
    kept = {**kept, "PATH": path}
    kept.pop("VIRTUAL_ENV", None)
    # What libraries would write beside their own files: an environment stays as it was built.
    kept["PYTHONDONTWRITEBYTECODE"] = "1"
    root = python.parent.parent
    return kept | ({"VIRTUAL_ENV": str(root)} if (root / "pyvenv.cfg").is_file() else {})
