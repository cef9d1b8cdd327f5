"""The command line: one verb per file. It builds a request, walks the street, renders, and sets the exit code.

Nothing heavy is imported before a verb runs: `--help` knows neither numpy nor torch nor mlflow.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from typing import Annotated, Any

import typer

from privacy_gate import __version__
from privacy_gate.errors import ExitCode, GateError

EXIT_CODES = """Exit codes:
  0  pass
  1  the policy is violated
  2  usage, configuration or manifest
  3  the evaluation failed
  4  inconclusive, or nothing was evaluated
130  interrupted
--exit-zero turns only 1 into 0."""

app = typer.Typer(
    name="privacy-gate",
    help="Decides whether a trained model may be released without exposing the people it was trained on.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # locals in a traceback would be training records
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

# typer may carry click inside itself: its error classes are reached through what typer exports.
_ClickUsageError: Any = typer.BadParameter.__mro__[1]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"privacy-gate {__version__}")
        raise typer.Exit(0)


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; works anywhere on the line.")] = False,
) -> None:
    """Decides whether a trained model may be released without exposing the people it was trained on."""


def _say(text: str) -> None:
    from privacy_gate.cli.console import clean  # messages quote labels, columns and file names of others

    sys.stderr.write(clean(text).rstrip("\n") + "\n")
    sys.stderr.flush()


def _interrupted() -> int:
    _say("interrupted: finished shadows are kept in the store")
    return int(ExitCode.INTERRUPTED)


def _nobody_reads() -> int:
    """The reader of our output went away; that is no verdict on the model."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    return int(ExitCode.FAILED)


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit code. A crash is 3, never 1."""
    debug = "--debug" in arguments or bool(os.environ.get("PRIVACY_GATE_DEBUG"))
    if debug:
        os.environ["PRIVACY_GATE_DEBUG"] = "1"
    rest = [argument for argument in arguments if argument != "--debug"]
    try:
        code = typer.main.get_command(app).main(args=rest, prog_name="privacy-gate", standalone_mode=False)
        # typer has made an exit code of Ctrl-C already
        return _interrupted() if code == ExitCode.INTERRUPTED else int(code or 0)
    except GateError as error:
        if debug:
            traceback.print_exc()
        _say(f"error: {error}")
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except (BrokenPipeError, SystemExit):  # with a closed pipe typer exits with 1: that would read as a violation
        return _nobody_reads()
    except _ClickUsageError as error:
        error.show()
        return int(ExitCode.USAGE)
    except Exception as error:
        if debug:
            traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        _say(
            f"error: unexpected {type(error).__name__} in {os.path.basename(where.filename)}:{where.lineno}: {error}\n"
            "  hint: this is a defect of the gate, not a verdict; --debug shows the traceback"
        )
        return int(ExitCode.FAILED)


VERBS = (
    "init",
    "plan",
    "check",
    "report",
    "diff",
    "explain",
    "attacks",
    "defences",
    "policy",
    "waiver",
    "signoff",
    "attest",
    "verify",
    "promote",
    "shadows",
    "serve",
    "sweep",
    "doctor",
    "selftest",
    "version",
)

for _verb in VERBS:  # each enters itself into `app`; --help shows them in this order
    importlib.import_module(f"privacy_gate.cli.{_verb}")


def _flow(verbs: typer.Typer) -> None:
    """Let the terminal break the lines of each verb's --help, and not the source, where its docstring stands."""
    for command in verbs.registered_commands:
        paragraphs = inspect.cleandoc((command.callback and command.callback.__doc__) or "").split("\n\n")
        command.help = command.help or "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for group in verbs.registered_groups:
        if group.typer_instance is not None:
            _flow(group.typer_instance)


_flow(app)
