"""The runs of a grid, as independent jobs, and what they say together.

In: a `Grid`. Out: a `GridResult`: one Measurement whose axes are the keys that vary, the loss curves, and for each run
that failed its reason. With a folder each run has one of its own in it, and finished runs are kept in a journal, so
that a grid which was killed at any moment ends, once it is resumed, as if it had not been.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.base.errors import ConfigError, OutputError, PellucidError
from pellucid.base.files import clear_abandoned, written_aside
from pellucid.base.record import Record
from pellucid.base.tensors import get_device
from pellucid.distributed.executor import Executor
from pellucid.distributed.journal import Journal
from pellucid.distributed.local import Local
from pellucid.distributed.processes import Processes
from pellucid.measurement import Measurement
from pellucid.train.folder import OURS as OF_A_RUN
from pellucid.train.folder import RECIPE, check_results, take_away
from pellucid.train.grid import Grid, Member, grid_of, read_grid
from pellucid.train.recipe import recipe_of, toml
from pellucid.train.run import train
from pellucid.train.summary import figures

JOURNAL, RUNS, RESULTS, TABLE, GRID_FILE, REPORT = (
    *("journal", "runs", "results.nc", "runs.csv", "grid.toml", "report.html"),
)
OURS = (GRID_FILE, JOURNAL, RUNS, RESULTS, TABLE, REPORT)
"""What a grid writes into its folder."""
UNITS = {
    "training_loss": "nats",
    "loss": "nats",
    "bits_per_byte": "bits per byte",
    "in_context_score": "nats",
    "in_context_bits_per_byte": "bits per byte",
    "induction": "attention mass",
    "previous_token": "attention mass",
    "tokens": "tokens",
    "parameters": "dimensions",
}
"""The figures of a run, and their units."""
FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One run of a grid, ended."""

    member: Member
    figures: Mapping[str, float]
    """See `pellucid.train.summary.figures`; none where it failed."""
    losses: Float[np.ndarray, " step"]
    """Of each step, nats."""
    reason: str | None
    """Why it failed; None: it did not."""


@dataclass(frozen=True, kw_only=True)
class GridResult:
    """What the runs of a grid say together."""

    grid: Grid
    results: Measurement
    """``[*keys]``: `figure` at the end of each run, NaN where there is none; every other figure is a variable."""
    figure: str
    """What the runs are compared by: ``bits_per_byte`` of text, else ``loss``."""
    runs: tuple[Ran, ...]
    folder: Path | None

    @property
    def failed(self) -> tuple[Ran, ...]:
        """The runs that did not end."""
        return tuple(run for run in self.runs if run.reason is not None)


def train_grid(
    grid: Grid | Mapping[str, Any] | str | Path,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: torch.device | str | None = None,
    executor: Executor | None = None,
    advance: Callable[[int], object] | None = None,
) -> GridResult:
    """Trains a model for each combination.

    Args:
        grid: A grid, the table of one, or a TOML file.
        out: The folder for all that comes out; None: nothing is written.
        resume: Go on with the grid that lies in `out`.
        overwrite: Replace what lies there.
        device: Where; None: the best one there is.
        executor: What runs the jobs; None: all cores of this machine, or, on a GPU, this process alone.
        advance: Is told 1 whenever a run has ended.

    Returns:
        The runs and their numbers. A run that failed is among them, with its reason; the others went on.

    Raises:
        ConfigError: There is no grid, or no combination can be run.
        OutputError: `out` holds results, or cannot be written.
    """
    grid = _grid(grid)
    folder = None if out is None else Path(out)
    device = str(device or get_device())
    if grid.sampling.max_memory is not None and not device.startswith("cpu"):
        raise ConfigError(f"grid.max_memory bounds memory of the CPU, and the runs are on {device}; leave it out")
    journal = None
    if folder is not None:
        journal = _opened(folder, grid, resume=resume, overwrite=overwrite)
    jobs = [{"run": m.name, "recipe": m.recipe.to_dict()} for m in grid.members if m.recipe is not None]
    if journal is not None:
        journal.begin(jobs)
    executor = executor or executor_of(grid, device)
    function = partial(_trained, folder=None if folder is None else str(folder / RUNS), device=device)
    more: dict[str, Any] = {} if advance is None else {"advance": advance}
    found = executor.map(function, jobs, journal=journal, **more)
    results = dict(zip((job["run"] for job in jobs), found, strict=True))
    runs = tuple(_ran(member, results.get(member.name)) for member in grid.members)
    known = {name for run in runs for name in run.figures}
    figure = next((name for name in ("bits_per_byte", "loss") if name in known), "training_loss")
    result = GridResult(grid=grid, results=_measured(grid, runs, figure), figure=figure, runs=runs, folder=folder)
    if folder is not None:
        _save(result, folder)
    return result


def executor_of(grid: Grid, device: str, processes: int | None = None) -> Executor:
    """What runs the jobs of a grid.

    Args:
        grid: Whose bound on memory is kept.
        device: On a GPU, this process alone runs them, unless a number is asked for.
        processes: Runs at a time; None: one a core.
    """
    if processes is None and device.startswith("cuda"):
        return Local()
    return Processes(processes, max_memory=grid.sampling.max_memory, lost=lost)


def _grid(grid: Grid | Mapping[str, Any] | str | Path) -> Grid:
    if isinstance(grid, Grid):
        return grid
    if isinstance(grid, Mapping):
        return grid_of(grid)
    found = read_grid(grid)
    if found is None:
        raise ConfigError(f"a grid must have a key with several values, {grid} has none; use train for one run")
    return found


def _opened(folder: Path, grid: Grid, *, resume: bool, overwrite: bool) -> Journal:
    """The journal of a folder that one may write to."""
    ours = (*OURS, *OF_A_RUN)
    check_results(folder, ours, what="grid", begun=GRID_FILE, resume=resume, overwrite=overwrite)
    if overwrite:
        take_away(folder, ours)
    for name in OURS:
        clear_abandoned(folder, name)
    clear_abandoned(folder / JOURNAL)
    journal = Journal.open(folder / JOURNAL, identity={"grid": dict(grid.values)})
    if not resume:
        with written_aside(folder / GRID_FILE) as aside:
            aside.write_text(toml(grid.values), encoding="utf-8")
    return journal


def _trained(job: Mapping[str, Any], *, folder: str | None, device: str) -> dict[str, Tensor]:
    """One run: its numbers, or why it failed."""
    recipe, out = recipe_of(job["recipe"]), None if folder is None else Path(folder) / job["run"]
    begun = out is not None and (out / RECIPE).exists()
    try:
        run = train(
            recipe,
            out=out,
            resume=begun,
            overwrite=not begun,  # of a run that was killed before it had its recipe
            device=device,
            shown=False,
            report=False,
        )
    except OutputError:
        raise  # not the run's fault
    except (PellucidError, RuntimeError, MemoryError, ArithmeticError, ValueError) as error:
        return lost(job, _reason(error))
    found = {name: torch.tensor(value, dtype=torch.float64) for name, value in figures(run).items()}
    return found | {"losses": torch.as_tensor(run.history.values, dtype=torch.float64)}


def _reason(error: Exception) -> str:
    if isinstance(error, PellucidError):
        return str(error)
    told = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or "allocate" in told or "out of memory" in told:
        return f"it needs more memory than there is: {told or 'out of memory'}"
    return f"{type(error).__name__}: {told}"


def lost(job: Any, reason: str) -> dict[str, Tensor]:
    """What a job gives where its run failed."""
    return {FAILED: torch.frombuffer(bytearray(reason.encode()), dtype=torch.uint8)}


def _ran(member: Member, found: Mapping[str, Tensor] | None) -> Ran:
    if found is None or FAILED in found:
        reason = member.reason if found is None else bytes(found[FAILED].tolist()).decode()
        return Ran(member=member, figures={}, losses=np.empty(0), reason=reason)
    numbers = {name: float(x) for name, x in found.items() if name != "losses"}
    return Ran(member=member, figures=numbers, losses=found["losses"].numpy(), reason=None)


def _measured(grid: Grid, runs: tuple[Ran, ...], figure: str) -> Measurement:
    """All figures over the keys that vary."""
    dims = tuple(grid.varied)
    shape = [len(labels) for labels in grid.varied.values()]
    places = [tuple(grid.varied[key].index(run.member.labels[key]) for key in dims) for run in runs]
    numbers: dict[str, np.ndarray] = {}
    for name in UNITS:
        if any(name in run.figures for run in runs):
            numbers[name] = np.full(shape, np.nan)
            for run, place in zip(runs, places, strict=True):
                numbers[name][place] = run.figures.get(name, np.nan)
    failed = np.zeros(shape)
    for run, place in zip(runs, places, strict=True):
        failed[place] = run.reason is not None
    settings = {
        "grid": dict(grid.values),
        "units": {name: UNITS[name] for name in numbers},
        "failed": {run.member.name: run.reason for run in runs if run.reason is not None},
    }
    main = numbers.pop(figure) if figure in numbers else np.full(shape, np.nan)
    return Measurement(
        main,
        dims,
        unit=UNITS[figure],
        record=Record(task="grid", settings=settings),
        name=figure.replace("_", " "),
        coords={key: list(labels) for key, labels in grid.varied.items()},
        variables={name: (dims, part) for name, part in {**numbers, FAILED: failed}.items()},
    )


def _save(result: GridResult, folder: Path) -> None:
    from pellucid.train.grid_page import grid_page

    result.results.save(folder / RESULTS)
    with written_aside(folder / TABLE) as aside:
        _write_table(result, aside)
    grid_page(result).save(folder / REPORT)


def _write_table(result: GridResult, path: Path) -> None:
    """A line for each run: its settings, its figures, and why it failed."""
    import csv

    names = [name for name in UNITS if any(name in run.figures for run in result.runs)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *result.grid.varied, *names, "reason"])
        for run in result.runs:
            numbers = [json.dumps(run.figures[name]) if name in run.figures else "" for name in names]
            writer.writerow([run.member.name, *run.member.labels.values(), *numbers, run.reason or ""])
