"""Run a program and leave nothing of it behind.

`run` starts this very file in a small interpreter of its own (standard library alone), which starts the program. When
the program ends, or `run`'s process does, however that happens, the guard kills all that the program started: on Linux
it is the parent that orphans fall to, whatever their session; elsewhere it finds the program's own group alone. A
program that kills its guard, which one user's processes may do to each other, can still leave a process behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    code   exit code, negative for the signal that ended it; None: it did not start
    errno  why it did not start
    """

    code: int | None
    errno: int | None = None


def run(
    argv: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    output: IO[bytes] | None = None,
    limit: float | None = None,
) -> Ended:
    """Run a program to its end; stdin is empty, stdout and stderr are this process's own, or `output`.

    folder       the program's working directory
    environment  all of it
    limit        seconds that it has
    When this returns, or this process is killed, nothing that the program started is left. Raises OSError where not
    even the guard starts, subprocess.TimeoutExpired.
    """
    stderr = None if output is None else subprocess.STDOUT
    with guarded(argv, folder=folder, environment=environment, stdout=output, stderr=stderr) as (guard, pipe):
        if limit is not None and not select.select([pipe], [], [], limit)[0]:
            raise subprocess.TimeoutExpired(argv, limit)
        return ended(guard, pipe)


@contextlib.contextmanager
def guarded(
    argv: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    stdout: IO[bytes] | int | None = None,
    stderr: int | None = None,
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """The guard of a program, which runs until the end of the block at most, and the pipe for `ended`."""
    heard, said = os.pipe()
    with os.fdopen(heard, "rb") as pipe:
        try:
            guard = subprocess.Popen(  # noqa: S603  # our own interpreter and file; what it runs is the caller's choice
                [sys.executable, "-I", "-S", str(Path(__file__).absolute()), str(said), *argv],
                stdin=subprocess.PIPE,  # closed when this process ends: the guard's sign to end everything
                stdout=stdout,
                stderr=stderr,
                env=dict(environment),
                cwd=folder,
                pass_fds=(said,),
                start_new_session=True,  # what ends this process's session must not end the guard
            )
        finally:
            os.close(said)
        keep_nice(guard.pid)
        with guard:  # closes its stdin and waits for it, also when this is interrupted
            yield guard, pipe


def keep_nice(pid: int | str = "self") -> None:
    """Give the session that a process has begun this one's niceness: on Linux with autogroups it starts without any."""
    if (nice := os.nice(0)) <= 0:
        return
    with contextlib.suppress(OSError):  # another kernel, or the process has ended
        for _ in range(3):
            try:
                Path(f"/proc/{pid}/autogroup").write_text(str(nice), encoding="ascii")
                return
            except BlockingIOError:  # one such write in 0.1 s for all of the machine
                time.sleep(0.1)


def ended(guard: subprocess.Popen[bytes], pipe: IO[bytes]) -> Ended:
    """How the program ended; waits for it."""
    told = pipe.read(64)
    match told.split():
        case [b"ended", code]:
            return Ended(int(code))
        case [b"errno", number]:
            return Ended(None, int(number))
    guard.wait()
    return Ended(guard.returncode or -signal.SIGKILL)  # somebody killed the guard


# --- the guard ------------------------------------------------------------------------------------------------------


def main(pipe: int, argv: list[str]) -> None:
    """Run `argv`, say into `pipe` how it ended, and end all that it started."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    own = os.getpid()
    try:
        program = subprocess.Popen(  # noqa: S603  # what a guard is for
            argv, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=lambda: _follow(own)
        )
    except OSError as error:
        _say(pipe, f"errno {error.errno or 0}")
        return
    except subprocess.SubprocessError:  # in what runs before the program
        _say(pipe, "errno 0")
        return
    keep_nice(program.pid)
    code = _wait(program, woken)
    end_all(program.pid)
    if code is not None:
        _say(pipe, f"ended {code}")


def _wait(program: subprocess.Popen[bytes], woken: int) -> int | None:
    """The program's exit code; None where this guard's owner ended first."""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while (code := program.poll()) is None:
            for key, _ in selector.select():
                if not os.read(key.fd, 64) and key.fd == 0:
                    return None
    return code


def end_all(program: int) -> None:
    """Kill child after child: the children of each fall to this process, until there is none."""
    if sys.platform != "linux":  # orphans fall to another: the program's own group is all that can be found
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(program, signal.SIGKILL)
        return
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    """The processes whose parent this one is: the second field after the name, which may hold anything, in stat."""
    found, own = [], os.getpid()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == own:
                found.append(int(stat.parent.name))
    return found


def _follow(guard: int) -> None:
    """In the program's process, before it starts: die with the guard."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:  # it went away before the line above
        os._exit(1)


def shut() -> None:
    """Close this process's memory and environment to others of the same user: on Linux, unless that is root."""
    prctl(PR_SET_DUMPABLE, 0)


def prctl(option: int, value: int) -> None:
    """Linux alone has it; nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _say(pipe: int, words: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(pipe, words.encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
