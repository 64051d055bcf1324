"""The page of a grid: which setting matters how much, the runs, and their curves side by side.

In: what the runs said. Out: a page. Nothing is computed here but means of what was measured.
"""

from collections import defaultdict

import numpy as np

from pellucid.report.page import Page
from pellucid.train.effects import SEED, effects
from pellucid.train.grid_run import UNITS, GridResult
from pellucid.viz.plots import line
from pellucid.viz.showing import unshown

SMOOTHED = 100
CURVES = 24
"""Lines of a picture, at most."""
SHOWN = ("bits_per_byte", "loss", "training_loss", "in_context_score", "induction", "previous_token")


def grid_page(result: GridResult) -> Page:
    """The report of `pellucid.train.grid_run.train_grid`."""
    with unshown():
        page = Page(f"{len(result.runs)} runs", lead=_lead(result))
        _effects(page, result)
        _runs(page, result)
        _failed(page, result)
        _curves(page, result)
        page.section("How it was made").text(
            "`grid.toml` beside this page makes it again with `pellucid train`. `results.nc` holds the figures as one "
            "Measurement whose axes are the keys that vary, `runs.csv` the table, `runs` each run's own folder."
        )
    return page


def _lead(result: GridResult) -> str:
    ended = [run for run in result.runs if result.figure in run.figures]
    keys = ", ".join(f"`{key}`" for key in result.grid.varied)
    failed = f" **{len(result.failed)}** failed; the reasons are below." if result.failed else ""
    if not ended:
        return f"Runs that differ in {keys}.{failed}"
    best = min(ended, key=lambda run: run.figures[result.figure])
    told = ", ".join(f"{key} {label}" for key, label in best.member.labels.items())
    return (
        f"Runs that differ in {keys}. The lowest {result.results.name}: **{best.figures[result.figure]:.4g}** "
        f"{result.results.unit}, with {told}.{failed}"
    )


def _effects(page: Page, result: GridResult) -> None:
    found = effects(result)
    if not found:
        return
    known = any(one.low is not None for one in found)
    seeds = "Student's t over seeds" if known else "none: it needs two seeds or more (seed = [0, 1, …])"
    page.section("Which setting matters how much?").text(
        f"How much {result.results.name} ({result.results.unit}) changes where one key has another value than its "
        "first, all else equal: the mean over all pairs of runs that differ in that key alone. Lower is better. The "
        f"interval is {seeds}."
        + (
            " Runs with different tokenizers are compared in bits per byte, since a nat per token means another thing "
            "to each of them."
            if result.figure == "bits_per_byte"
            else ""
        )
    )
    rows = [
        [
            one.key,
            str(one.against),
            str(one.value),
            one.difference,
            None if one.low is None else f"[{one.low:.3g}, {one.high:.3g}]",
            one.pairs,
        ]
        for one in found
    ]
    page.table(
        ["key", "from", "to", "difference", "95 % interval", "pairs"],
        rows,
        "The key with the largest difference first.",
    )


def _runs(page: Page, result: GridResult) -> None:
    names = [name for name in SHOWN if any(name in run.figures for run in result.runs)]
    if _tokens_differ(result):
        names = [name for name in names if UNITS[name] != "nats"]
    ended = sorted(
        (run for run in result.runs if run.reason is None), key=lambda run: run.figures.get(result.figure, np.inf)
    )
    rows = [
        [run.member.name, *map(str, run.member.labels.values()), *(run.figures.get(name) for name in names)]
        for run in ended
    ]
    if rows:
        page.section("The runs").table(
            ["run", *result.grid.varied, *(f"{name.replace('_', ' ')} ({UNITS[name]})" for name in names)],
            rows,
            "The best first. Induction and previous token: the best head's attention minus its control.",
        )


def _failed(page: Page, result: GridResult) -> None:
    if result.failed:
        rows = [[run.member.name, *map(str, run.member.labels.values()), run.reason] for run in result.failed]
        page.section("What failed").table(["run", *result.grid.varied, "why"], rows, "The others went on.")


def _curves(page: Page, result: GridResult) -> None:
    """The mean over seeds of each combination's training loss."""
    groups: dict[tuple[str, ...], list[np.ndarray]] = defaultdict(list)
    for run in result.runs:
        if len(run.losses):
            groups[tuple(f"{key} {label}" for key, label in run.member.labels.items() if key != SEED)].append(
                run.losses
            )
    if not groups:
        return
    longest = max(len(losses) for curves in groups.values() for losses in curves)
    width = max(1, longest // SMOOTHED)
    best = sorted(groups, key=lambda name: np.mean([losses[-1] for losses in groups[name]]))[:CURVES]
    n = longest // width
    values = np.full((n, len(best)), np.nan)
    for column, name in enumerate(best):
        for_each = [losses[: len(losses) // width * width].reshape(-1, width).mean(1) for losses in groups[name]]
        length = min(map(len, for_each))
        values[:length, column] = np.mean([curve[:length] for curve in for_each], axis=0)
    steps = (np.arange(n) + 1) * width
    title = "Training loss"
    named = [", ".join(name) or "all" for name in best]
    page.section("Curves side by side").figure(
        line(values, x=steps, names=named, xaxis="step", yaxis="loss (nats)", title=title),
        f"The training loss, each line the mean over the seeds of a combination{_few(len(groups))}. In nats per token: "
        "curves of different tokenizers must not be compared by their height.",
    )


def _few(n: int) -> str:
    return f", the {CURVES} lowest of {n}" if n > CURVES else ""


def _tokens_differ(result: GridResult) -> bool:
    """Whether a held-out token has more bytes in one run than in another: nats per token must not be compared then."""
    told = [run.figures for run in result.runs if run.figures.get("bits_per_byte")]
    sizes = [figures["loss"] / figures["bits_per_byte"] for figures in told]
    return len(sizes) > 0 and not np.allclose(sizes, sizes[0], rtol=1e-6)
