"""Does the README show the program's own --help? With --write it is made to.

Every fenced block of README.md that begins with `$ privacy-gate ... --help` must go on with what that command prints.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"(?P<head>^```[a-z]*\n\$ privacy-gate(?P<words>(?: [a-z-]+)*) --help\n).*?(?P<tail>^```$)", re.M | re.S
)


def printed(words: list[str]) -> str:
    """What `privacy-gate WORDS --help` prints on a plain terminal of 100 columns, without trailing blanks."""
    plain = {name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR", "GITHUB_ACTIONS"}}
    program = Path(sys.executable).with_name("privacy-gate")
    done = subprocess.run(
        [program, *words, "--help"],
        env={**plain, "COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines()) + "\n"


def renewed(readme: str) -> str:
    """The same text with each help block replaced by what the program prints now."""

    return BLOCK.sub(lambda block: block["head"] + printed(block["words"].split()) + block["tail"], readme)


def main() -> None:
    """Exit 1 and name the mend if a block is out of date, or none is there."""
    path = ROOT / "README.md"
    readme = path.read_text(encoding="utf-8")
    if not BLOCK.search(readme):
        sys.exit("README.md shows no `$ privacy-gate --help` block")
    mended = renewed(readme)
    if mended == readme:
        return
    if "--write" not in sys.argv:
        sys.exit("README.md shows another --help than the program; mend: .venv/bin/python ci/readme_help.py --write")
    path.write_text(mended, encoding="utf-8")


if __name__ == "__main__":
    main()
