"""A plan in words: what will run, how often, and which cells are known without running."""

from collections.abc import Mapping
from math import prod

from pellucid.patching.grid import Grid

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


def explained(
    grid: Grid,
    *,
    known: Mapping[str, int],
    walked: Mapping[str, int],
    rows: int,
    plain: Mapping[int | None, int],
    jobs: int | None,
) -> str:
    """What will run, how often, and which cells are known without running.

    Args:
        grid: The cells.
        known: How many need no run, by the reason.
        walked: How many join the walk, by how they are prepared.
        rows: What these carry.
        plain: How many are run plainly, by the layer that they begin at, None for the embedding.
        jobs: Parts that the work is split in, once that is settled.
    """
    axes = " × ".join(f"{axis} {len(labels)}" for axis, labels in grid.labels.items()) or "one cell"
    sites = " + ".join(grid.question.sites)
    lines = [f"{sites}: prompt {grid.shape[0]} × {axes} = {prod(grid.shape):,} cells"]
    if sum(known.values()):
        lines.append(f"known without running: {sum(known.values()):,}")
        lines += [f"  {count:,} {reason}" for reason, count in known.items() if count]
    if walked:
        parts = "" if jobs is None else f", in {jobs} part{'s' if jobs > 1 else ''}"
        lines.append(f"in one walk through the layers: {sum(walked.values()):,}, which carry {rows:,} rows{parts}")
        lines += [f"  {HOW[name]}" for name in walked]
    if plain:
        begin = "the embedding" if None in plain else f"layer {min(layer for layer in plain if layer is not None)}"
        lines.append(f"run plainly, each as a row of a batch from {begin} on: {sum(plain.values()):,}")
        why = grid.question.plainly or "several points are patched together, or one that no walk passes"
        lines.append(f"  {why}")
    return "\n".join(lines)
