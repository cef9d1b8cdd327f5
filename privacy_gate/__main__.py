"""Entry point of the program, and `python -m privacy_gate`."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line. A broken installation is exit 3: Python's own 1 would read as a violated policy."""
    try:
        from privacy_gate.cli import run
    except ImportError as error:
        sys.stderr.write(
            f"error: privacy-gate cannot start: {error}\n  hint: install it again, with its dependencies\n"
        )
        sys.exit(3)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
