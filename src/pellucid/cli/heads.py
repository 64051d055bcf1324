"""`pellucid heads`: how strongly each head plays each role, with interval and control."""

import math
from typing import TYPE_CHECKING, Any

import typer

from pellucid.cli.options import AsJson, Batch, Debug, Model, Seed, SeqLen, loaded, print_json, say
from pellucid.cli.tables import NONE, print_table, print_tokens

if TYPE_CHECKING:
    from pellucid.analysis.heads import RoleScores

CLEAR = 0.4
"""A score this far above its control is printed in bold."""


def heads(
    model: Model,
    seq_len: SeqLen = None,
    batch: Batch = 30,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """What each head attends to, on random tokens that repeat: a table with a row for every head.

    \b
    Example:
        pellucid heads --model toy-induction
    """  # noqa: D301  (typer leaves the lines after \b as they are)
    from pellucid.analysis.heads import role_scores
    from pellucid.analysis.reading import about_bos
    from pellucid.analysis.repeated import repeated_tokens

    read = loaded(model)
    tokens = repeated_tokens(read, seq_len=seq_len, batch=batch, seed=seed)
    say("attention of every head")
    scores = role_scores(read, tokens)
    if as_json:
        record = scores.score.record.to_dict()
        print_json({"model": model, "record": record, "bos": about_bos(read), "heads": _cells(scores)})
        return
    print_tokens(model, tokens.settings, seed, about_bos(read))
    print_heads(_cells(scores))
    typer.echo()
    if batch == 1:
        typer.echo("Attention mass on one prompt, which has no interval.")
    else:
        typer.echo(f"Attention mass, mean and 95 % interval (Student's t over {batch} prompts).")
    typer.echo("control: the same stripe on tokens that do not repeat.")
    typer.echo("For the other roles the control is uniform attention, in the first row.")


def _cells(scores: "RoleScores") -> list[dict[str, Any]]:
    """For each head, each role's score, interval and control; a role that the model cannot have is null."""
    import numpy as np

    from pellucid.analysis.heads import ROLES

    means = scores.score.mean("prompt").dataset
    parts = {"score": means["value"], "low": means["low"], "high": means["high"]}
    arrays = {name: part.values for name, part in parts.items()} | {"control": scores.control.mean("prompt").values}
    had = means["role"].values.tolist()
    rows = []
    for layer, head in np.ndindex(arrays["score"].shape[1:]):
        row: dict[str, Any] = {"head": f"{layer}.{head}"}
        for role in ROLES:
            place = (had.index(role.name), layer, head) if role.name in had else None
            row[role.name] = place and {name: _finite(array[place]) for name, array in arrays.items()}
        rows.append(row)
    return rows


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def print_heads(rows: list[dict[str, Any]]) -> None:
    """A table with a row for each head."""
    from pellucid.analysis.heads import ROLES

    columns = ["head"]
    uniform = ["uniform"]
    for role in ROLES:
        columns += [role.name.replace(" ", "\n"), "control"] if role.repeated else [role.name.replace(" ", "\n")]
        first = rows[0][role.name] if rows else None
        uniform += ["", ""] if role.repeated else [_short(first and first["control"])]
    table = [uniform]
    for row in rows:
        cells = [row["head"]]
        for role in ROLES:
            cells += _words(row[role.name], with_control=role.repeated)
        table.append(cells)
    print_table(columns, table, gap=1)


def _words(cell: dict[str, float | None] | None, *, with_control: bool) -> list[str]:
    if cell is None or cell["score"] is None:
        return [NONE, ""] if with_control else [NONE]
    half = "" if cell["high"] is None else f" ±{cell['high'] - cell['score']:.2f}"
    words = f"{cell['score']:.2f}{half}"
    if cell["control"] is not None and cell["score"] - cell["control"] >= CLEAR:
        words = f"[bold]{words}[/bold]"
    return [words, _short(cell["control"])] if with_control else [words]


def _short(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"
