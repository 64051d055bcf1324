"""What reports share: cells of tables, the largest cells fairly chosen, and how a result was made."""

import numpy as np

from pellucid.maths.statistics import split
from pellucid.measurement import Measurement
from pellucid.report.page import Page
from pellucid.studies.result import Figure, StudyResult

HALVES = "Chosen on one half of the prompts, measured on the other."


def top_cells(measured: Measurement, k: int, *, lowest: bool = False) -> list[list[object]]:
    """The largest cells (or the lowest): name, mean and interval, chosen on one half of the prompts."""
    sign = -1.0 if lowest else 1.0
    choosing, reporting = split(measured.shape[0], measured.frames)
    decided, told = (measured.sel(prompt=list(rows)).mean("prompt") for rows in (choosing, reporting))
    values = np.nan_to_num(sign * decided.values.ravel(), nan=-np.inf)
    labels, data, rows = told.labels, told.dataset, []
    for at in (int(at) for at in np.argsort(-values, kind="stable")[:k] if np.isfinite(values[at])):
        mean, low, high = (float(data[name].values.ravel()[at]) for name in ("value", "low", "high"))
        interval = f"{low:z.3f} … {high:z.3f}" if np.isfinite([low, high]).all() else None
        rows.append([labels[at], f"{mean:z.3f}", interval])
    return rows


def number(figure: Figure) -> str | None:
    """With three digits behind the point."""
    return None if figure.value is None else f"{figure.value:z.3f}"


def interval(figure: Figure) -> str | None:
    """From … to, likewise."""
    return None if figure.low is None or figure.high is None else f"{figure.low:z.3f} … {figure.high:z.3f}"


def cells(figure: Figure) -> list[object]:
    """Mean and interval."""
    return [number(figure), interval(figure)]


def made(page: Page, result: StudyResult) -> None:
    """The last section: what the numbers depend on, and where they lie. Settings that are tables have their own."""
    record = result.record
    plain = {
        name: value for name, value in record.settings.items() if value is not None and not isinstance(value, dict)
    }
    settings = ", ".join(f"{name} {value}" for name, value in plain.items())
    page.section("How was this made?").text(
        f"Pellucid {record.version}; model {result.model}, weights {str(record.weights_hash)[:16]}…, processing: "
        f"{', '.join(record.processing) or 'none'}; {record.dtype} on {record.device}; seed {record.seed}; {settings}. "
        "All numbers lie beside this page: `result.json`, and the folder `measurements`."
    )
