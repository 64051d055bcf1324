"""A plan in words: what will run, how often, and which cells are known without running."""

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pellucid.patching.plan import Plan

HOW = {
    "stream": "the stream of a row joins before its layer's attention",
    "attention": "attention of its layer once more, then what the heads write joins before the MLP",
    "pattern": "values mixed once more, then what the heads write joins before the MLP",
    "heads": "what the heads write joins before the MLP",
    "mid": "the stream of a row joins before its layer's MLP",
    "mlp": "the stream of a row joins behind its layer's MLP",
    "neurons": "what the neurons write joins behind their layer's MLP",
}
"""By the preparations of `sites.py`."""


def explained(plan: "Plan") -> str:
    """What will run, how often, and which cells are known without running."""
    grid, question = plan.grid, plan.grid.question
    axes = " × ".join(f"{axis} {len(labels)}" for axis, labels in grid.labels.items()) or "one cell"
    total = 1
    for size in grid.shape:
        total *= size
    sites = " + ".join(question.sites) or "groups of sites"
    lines = [f"{sites}: prompt {grid.shape[0]} × {axes} = {total:,} cells"]
    known = sum(plan.known.values())
    if known:
        lines.append(f"known without running: {known:,}")
        lines += [f"  {count:,} {reason}" for reason, count in plan.known.items() if count]
    walked = Counter[str]()
    for entry in plan.entries:
        walked[entry.kind.prepared] += len(entry.cells)
    rows = sum(len(entry.cells) * entry.carried for entry in plan.entries)
    if walked:
        parts = "" if plan.jobs is None else f", in {plan.jobs} part{'s' if plan.jobs > 1 else ''}"
        lines.append(f"in one walk through the layers: {walked.total():,}, which carry {rows:,} rows{parts}")
        lines += [f"  {HOW[name]}" for name in walked]
    plain = sum(len(cells.cells) for cells in plan.plain)
    if plain:
        lowest = min(-1 if cells.layer is None else cells.layer for cells in plan.plain)
        begin = "the embedding" if lowest < 0 else f"layer {lowest}"
        lines.append(f"run plainly, each as a row of a batch from {begin} on: {plain:,}")
        lines.append(f"  {question.plainly or 'several points are patched together, or one that no walk passes'}")
    return "\n".join(lines)
