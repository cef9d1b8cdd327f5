"""Environments beside the gate's own, made at once: they see the gate's packages, and one of another version."""

import base64
import hashlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import cloudpickle
import sklearn

from privacy_gate.datamodel import Candidate

PACKAGES = Path(sysconfig.get_paths()["purelib"])
OTHER = "3.99.0"  # version of cloudpickle there


def make(folder: Path) -> Path:
    """The interpreter of a virtual environment with the gate's packages, without the gate, and another cloudpickle."""
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", str(folder)], check=True)
    own = next((folder / "lib").glob("python3*/site-packages"))
    (own / "gate.pth").write_text(f"{PACKAGES}\n")
    other_cloudpickle(own)
    return folder / "bin" / "python"


def other_cloudpickle(packages: Path) -> None:
    """The same code, by another version."""
    shutil.copytree(Path(cloudpickle.__file__).parent, packages / "cloudpickle")
    code = packages / "cloudpickle" / "__init__.py"
    code.write_text(code.read_text().replace(cloudpickle.__version__, OTHER))
    told = packages / f"cloudpickle-{OTHER}.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: cloudpickle\nVersion: {OTHER}\n")


def candidate(folder: Path, model: object = None, *, requirements: str | None = None, python: str = "") -> Candidate:
    """A scikit-learn model in a folder as MLflow writes it, without waiting for MLflow."""
    folder.mkdir()
    (folder / "model.pkl").write_bytes(cloudpickle.dumps(model))
    (folder / "MLmodel").write_text(
        "flavors:\n"
        "  python_function:\n    loader_module: mlflow.sklearn\n    model_path: model.pkl\n"
        f"    python_version: {python or '.'.join(map(str, sys.version_info[:3]))}\n"
        "  sklearn:\n    code: null\n    pickled_model: model.pkl\n    serialization_format: cloudpickle\n"
        f"    sklearn_version: {sklearn.__version__}\n"
        "mlflow_version: 3.17.2\n"
    )
    if requirements is not None:
        (folder / "requirements.txt").write_text(requirements)
    return Candidate(uri="m", resolved_uri="m", snapshot=folder, digest="0" * 64, flavor="sklearn", executes_code=True)


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A real wheel of a few text files."""
    info = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{inside},sha256={digest},{len(text.encode())}")
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,", ""]))
    return path
