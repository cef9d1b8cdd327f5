import os
import shutil
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


# Root without its capabilities is a user like any other.
PLAIN = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
SHUT = """
import sys
from privacy_gate.sandbox import guard

if sys.argv[1] == "shut":
    guard.shut()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(
    sys.platform != "linux" or (PLAIN and not shutil.which("setpriv")), reason="no /proc, or no setpriv"
)
@pytest.mark.parametrize(("how", "seen"), [("open", "TOKEN=secret"), ("shut", "PermissionError")])
def test_what_a_process_knows_is_closed_to_its_user(how, seen):
    """A model that runs code does so as the user of the service, whose token is in its environment."""
    environment = {**os.environ, "TOKEN": "secret"}
    line = [*PLAIN, sys.executable, "-c", SHUT, how]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"ready\n"
        look = f"print(open('/proc/{process.pid}/environ').read(), open('/proc/{process.pid}/mem', 'r+b'))"
        found = subprocess.run([*PLAIN, sys.executable, "-S", "-c", look], capture_output=True, text=True, check=False)
        process.stdin.close()
    assert seen in found.stdout + found.stderr


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="no autogroups in this kernel")
def test_a_nice_process_has_nice_sessions(tmp_path):
    """The kernel weighs sessions first: niceness within one says nothing to another."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "tells.py").write_text(TELLS)
    line = [sys.executable, tmp_path / "program.py", tmp_path / "tells.py", tmp_path / "out"]
    subprocess.run(line, check=True, timeout=60)
    assert (tmp_path / "out").read_text().strip() == "7"
