"""`pellucid train` of a file in which keys hold lists: many runs, and what they say together."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pellucid.cli.options import print_json
from pellucid.cli.tables import number, print_table

if TYPE_CHECKING:
    from pellucid.train.grid import Grid
    from pellucid.train.grid_run import GridResult

SHOWN = 12
"""Lines of a table on the terminal."""


def many(
    grid: "Grid",
    out: Path | None,
    resume: bool,
    overwrite: bool,
    print_only: bool,
    device: str | None,
    processes: int | None,
    as_json: bool,
) -> None:
    """Runs a grid, and prints what it says."""
    if print_only:
        _print_members(grid)
        return
    if out is None:
        raise typer.BadParameter("give --out DIR, where the trained models go")
    from pellucid.base.progress import progress
    from pellucid.base.tensors import get_device
    from pellucid.distributed.together import launched
    from pellucid.train.grid_run import JOURNAL as KEPT
    from pellucid.train.grid_run import TABLE, executor_of, train_grid

    if launched():
        raise typer.BadParameter("a grid has processes of its own; start it without accelerate launch or torchrun")
    held = len(list((out / KEPT).glob("*.safetensors"))) if resume else 0
    where = device or str(get_device())
    executor = executor_of(grid, where, processes)
    with progress(len([m for m in grid.members if m.recipe is not None]), "runs", done=held) as advance:
        found = train_grid(
            grid, out=out, resume=resume, overwrite=overwrite, device=where, executor=executor, advance=advance
        )
    if as_json:
        print_json(summary(found))
    else:
        _print(found)
        typer.echo(f"Written to {out}: {TABLE}, results.nc, and a folder for each run")
        typer.echo(f"Report: {out / 'report.html'}")
    if len(found.failed) == len(found.runs):
        raise typer.Exit(1)


def summary(found: "GridResult") -> dict[str, Any]:
    """What a program may want to know."""
    from dataclasses import asdict

    from pellucid.train.effects import effects

    runs = [
        {
            "run": run.member.name,
            "settings": dict(run.member.labels),
            "figures": dict(run.figures),
            "reason": run.reason,
        }
        for run in found.runs
    ]
    return {"figure": found.figure, "runs": runs, "effects": [asdict(one) for one in effects(found)]}


def _print_members(grid: "Grid") -> None:
    typer.echo(f"{len(grid.members)} runs")
    rows = [[m.name, *map(str, m.labels.values()), m.reason or ""] for m in grid.members]
    print_table(["run", *grid.varied, "cannot be"], rows)


def _print(found: "GridResult") -> None:
    """The best runs, what each setting changes, and what failed."""
    from pellucid.train.effects import effects

    words, unit = str(found.results.name), found.results.unit
    ended = sorted((run for run in found.runs if found.figure in run.figures), key=lambda r: r.figures[found.figure])
    typer.echo(f"{len(ended)} of {len(found.runs)} runs ended; by {words} ({unit}), the best first")
    rows = [
        [run.member.name, *map(str, run.member.labels.values()), number(run.figures[found.figure], unit)]
        for run in ended[:SHOWN]
    ]
    print_table(["run", *found.grid.varied, words], rows)
    changes = effects(found)
    if changes:
        typer.echo()
        typer.echo(f"What a setting changes, all else equal ({unit})")
        told = [
            [one.key, f"{one.against} → {one.value}", f"{one.difference:+.3f}", _ends(one.low, one.high)]
            for one in changes[:SHOWN]
        ]
        print_table(["key", "", "difference", "95 % interval"], told)
    for run in found.failed:
        labels = ", ".join(f"{key} {label}" for key, label in run.member.labels.items())
        typer.echo(f"failed: run {run.member.name} ({labels}): {run.reason}", err=True)


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]"
