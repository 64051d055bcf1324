"""The page of a sweep: what was patched, which cells move the metric, and how that was worked out.

In: what a sweep gave. Out: a page, and the cells in order, for whoever prints them. Nothing is computed here but means.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.measurement import Measurement
from pellucid.report.page import Page
from pellucid.report.prose import code
from pellucid.viz.plots import plot
from pellucid.viz.showing import unshown

PUT = {
    "denoise": "Parts of the clean run were put into the corrupted one",
    "noise": "Parts of the corrupted run were put into the clean one",
}
SHOWN = 30
"""Cells in the page's table."""
PICTURES = 24
"""Pictures at the most, where a sweep has more axes than two."""


@dataclass(frozen=True)
class Cell:
    """One cell of a sweep, its numbers means over the prompts."""

    label: str
    value: float
    effect: float
    """By how much it moves the metric."""
    low: float | None
    high: float | None
    """The interval of the effect; None for one prompt."""
    fraction: float | None
    """Where it lies between the corrupted run, 0, and the clean one, 1; None where both give the same."""


def largest(effect: Measurement, k: int) -> list[Cell]:
    """The cells that move the metric most, in either direction.

    Args:
        effect: What `pellucid.patching.sweep` gave.
        k: How many; all if there are fewer.
    """
    moved = moves(effect).mean("prompt")
    shares = fractions(effect)
    values = effect.mean("prompt").values.ravel()
    data = {name: moved.dataset[name].values.ravel() for name in ("value", "low", "high")}
    labels = moved.labels
    order = np.argsort(-np.nan_to_num(np.abs(data["value"]), nan=-1.0), kind="stable")[:k]
    order = order[~np.isnan(data["value"][order])]  # no such edge
    ends = [None if moved.n == 1 else data[side] for side in ("low", "high")]
    return [
        Cell(
            label=labels[at],
            value=float(values[at]),
            effect=float(data["value"][at]),
            low=None if ends[0] is None else float(ends[0][at]),
            high=None if ends[1] is None else float(ends[1][at]),
            fraction=None if shares is None else float(shares.values.ravel()[at]),
        )
        for at in order.tolist()
    ]


def moves(effect: Measurement) -> Measurement:
    """By how much each cell moves the metric; of unsigned estimates the size is all that there is."""
    return effect if "unsigned" in effect.record.settings else effect.effect()


def fractions(effect: Measurement) -> Measurement | None:
    """The mean of each cell as a fraction of the way from the corrupted run to the clean one.

    None if these agree, and for estimates without a sign.
    """
    if "unsigned" in effect.record.settings:
        return None
    clean, corrupted = (effect.dataset[side].values.astype(float).mean() for side in ("clean", "corrupted"))
    return None if clean == corrupted else effect.normalised().mean("prompt")


def sweep_page(effect: Measurement, *, model: str, texts: Sequence[tuple[str, str]] = (), explained: str = "") -> Page:
    """The page of a sweep.

    Args:
        effect: What `pellucid.patching.sweep` gave.
        model: Its name.
        texts: Clean and corrupted prompts, where they are text.
        explained: What ran, in words.
    """
    settings = effect.record.settings
    cells = largest(effect, SHOWN)
    with unshown():
        lead = f"{PUT[settings['direction']]} of {code(model)}, each part alone. {_found(cells, effect.unit)}"
        if "method" in settings:
            lead += f" All of it is estimated from gradients, by {settings['method']}."
        what = " + ".join(settings.get("site", ["paths"]))
        page = Page(f"Patching {what} over {' × '.join(effect.dims[1:]) or 'nothing'}", lead=lead)
        _runs(page, effect, texts)
        _pictures(page, effect)
        _table(page, effect, cells)
        page.section("How it was made").text(_made(effect))
        if explained:
            page.text("\n".join(f"- {line.strip()}" for line in explained.split("\n")))
    return page


def _found(cells: Sequence[Cell], unit: str) -> str:
    if not cells or not cells[0].effect:
        return "No cell moves the metric at all."
    first = cells[0]
    share = "" if first.fraction is None else f", {first.fraction:.2f} of the way from corrupted to clean"
    return f"**{first.label}** moves the metric most: by {first.effect:+.3g} {unit}{share}."


def _runs(page: Page, effect: Measurement, texts: Sequence[tuple[str, str]]) -> None:
    clean, corrupted = (effect.dataset[side].values.astype(float) for side in ("clean", "corrupted"))
    rows = [[str(i), *(texts[i] if texts else ()), clean[i], corrupted[i]] for i in range(min(len(clean), SHOWN))]
    heads = ["prompt", *(("clean", "corrupted") if texts else ()), "metric, clean", "metric, corrupted"]
    more = f" The first {SHOWN} of {len(clean)} prompts." if len(clean) > SHOWN else ""
    metric = effect.record.settings["metric"]
    page.section("The two runs").table(
        heads, rows, f"The metric, {metric}, in {effect.unit}, of each unpatched run.{more}"
    )


def _pictures(page: Page, effect: Measurement) -> None:
    shares = fractions(effect)
    drawn = moves(effect).mean("prompt") if shares is None else shares
    unit = "change of the metric" if shares is None else "0 is the corrupted run, 1 the clean one"
    many = f"the mean over {effect.shape[0]} prompts" if effect.shape[0] > 1 else "one prompt"
    page.section("Cell by cell")
    planes = _planes(drawn)
    for told, part in planes[:PICTURES]:
        page.figure(
            plot(part, title=told), f"{f'{told}: each' if told else 'Each'} cell patched alone, {many}; {unit}."
        )
    if len(planes) > PICTURES:
        page.text(f"{len(planes) - PICTURES} more pictures are left out; the numbers are in the file beside this page.")


def _planes(drawn: Measurement) -> list[tuple[str, Measurement]]:
    """A Measurement in parts of one axis or two, which can be drawn."""
    if not drawn.dims:
        return []
    if len(drawn.dims) <= 2:
        return [("", drawn)]
    axis = "input" if "input" in drawn.dims else drawn.dims[0]
    found = []
    for label in drawn.dataset[axis].values.tolist():
        for told, part in _planes(drawn.sel(**{axis: label})):
            found.append((", ".join(filter(None, [f"{axis} {label}", told])), part))
    return found


def _table(page: Page, effect: Measurement, cells: Sequence[Cell]) -> None:
    interval = "with the 95 % interval of the effect" if effect.shape[0] > 1 else "on one prompt, which has no interval"
    rows = [[cell.label, cell.value, cell.effect, cell.low, cell.high, cell.fraction] for cell in cells]
    page.table(
        ["cell", effect.unit, "effect", "low", "high", "fraction"],
        rows,
        f"The cells that move the metric most, {interval}. They were chosen on the prompts that they are measured on, "
        "which flatters them.",
    )


def _made(effect: Measurement) -> str:
    record = effect.record
    told = {name: value for name, value in record.settings.items() if value not in ([], None)}
    settings = ", ".join(f"{k} {' '.join(v) if isinstance(v, list) else v}" for k, v in told.items())
    processing = ", ".join(record.processing) or "none"
    return (
        f"Pellucid {record.version}; model {code(str(record.model))}, processing: {processing}; {record.dtype} on "
        f"{record.device}. Settings: {settings}."
    )
