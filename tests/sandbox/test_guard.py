import subprocess
import sys
from pathlib import Path

import pytest

AUTOGROUP = Path("/proc/self/autogroup")

PROGRAM = """
import os, sys
from pathlib import Path
from privacy_gate.sandbox import guard

os.nice(7)
with open(sys.argv[2], "wb") as out:
    guard.run([sys.executable, sys.argv[1]], folder=Path("."), environment=dict(os.environ), output=out)
"""

# The guard sees to it right after it has started the program.
TELLS = """
import time
for _ in range(200):
    told = open("/proc/self/autogroup").read().split()[-1]
    if told != "0":
        break
    time.sleep(0.05)
print(told)
"""


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="no autogroups in this kernel")
def test_a_nice_process_has_nice_sessions(tmp_path):
    """The kernel weighs sessions first: niceness within one says nothing to another."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "tells.py").write_text(TELLS)
    line = [sys.executable, tmp_path / "program.py", tmp_path / "tells.py", tmp_path / "out"]
    subprocess.run(line, check=True, timeout=60)
    assert (tmp_path / "out").read_text().strip() == "7"
