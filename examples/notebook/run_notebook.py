"""Run the code cells of a notebook in plain Python, with other parameters.

    python run_notebook.py NOTEBOOK [NAME=VALUE ...]

The values, as text, are set after the cell that is tagged `parameters`, which is where papermill sets them, too. Lines
for the notebook's own shell (%, !) are left out; a notebook that needs them is run with papermill.
"""

import json
import sys
from pathlib import Path
from typing import Any


def code(notebook: dict[str, Any], values: dict[str, str]) -> str:
    """All code cells under each other."""
    parts = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        text = "".join(cell["source"])
        parts.append("\n".join("" if line.startswith(("%", "!")) else line for line in text.splitlines()))
        if "parameters" in cell["metadata"].get("tags", []):
            parts.extend(f"{name} = {value!r}" for name, value in values.items())
    return "\n\n".join(parts)


def main(path: Path, words: list[str]) -> None:
    values = dict(word.split("=", 1) for word in words)
    text = code(json.loads(path.read_text(encoding="utf-8")), values)
    exec(compile(text, str(path), "exec"), {"__name__": "__main__"})  # it is what this file is for


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
