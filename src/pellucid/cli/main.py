"""The entry point: which commands there are, and how a command ends.

Status 0: done. 1: it failed, and one line on stderr says what must hold, what was found and what to do. 2: the command
line is wrong. 130: interrupted. Commands import what they need when they run, so that `--help` costs nothing.
"""

import io
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from pellucid.base.errors import PellucidError
from pellucid.base.record import VERSION
from pellucid.cli import explain, heads, lens, models, patch, study, train

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command("models", short_help="What can be loaded by name.")(models.models)
app.add_typer(study.app, name="study")
app.command("heads", short_help="What each head attends to: a table.")(heads.heads)
app.command("lens", short_help="What the model would say at each layer and position.")(lens.lens)
app.command("explain", short_help="One page about one prompt of your own.")(explain.explain)
app.command("patch", short_help="Put parts of one run into another: which of them matter?")(patch.patch)
app.command("train", short_help="Make a model as a recipe says, and watch its heads form.")(train.train)


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"pellucid {VERSION}")
        raise typer.Exit
    return wanted


@app.callback()
def pellucid(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Look inside transformer language models.

    \b
    To begin:
        pellucid models
        pellucid study induction --model toy-induction
        pellucid heads --model toy-induction
    """  # noqa: D301  (typer leaves the lines after \b as they are)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line, that of the process by default, and gives its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks "±" gets a "?", not an error
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _Warnings().show
            app(args=arguments, prog_name="pellucid")
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        else:
            typer.echo(_one_line(error), err=True)
        return 1


class _Warnings:
    """Shows each warning once, however often and from wherever it is given."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def show(self, message: Warning | str, category: type[Warning], filename: str, lineno: int, *more: object) -> None:
        if str(message) not in self._shown:
            self._shown.add(str(message))
            typer.echo(f"Warning: {message}", err=True)


def _one_line(error: Exception) -> str:
    said = " ".join(str(error).split())
    if isinstance(error, PellucidError):
        return f"Error: {said}"
    return f"Error: {type(error).__name__}: {said} (unexpected; --debug shows where)"
