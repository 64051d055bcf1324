"""What a lens found, as tables that fit a terminal."""

from typing import TYPE_CHECKING, Any

import typer

from pellucid.cli.tables import COLUMNS, interval, number, print_table

if TYPE_CHECKING:
    from pellucid.analysis.lens import Lens
    from pellucid.analysis.lens_attention import AttentionLens

WORD = 8
"""Columns of a token."""
CELL = WORD + 5
"""With its probability: ``·the      34%``."""
FIT = (COLUMNS - 5) // (CELL + 2)
"""Such cells in a line, behind a layer or head."""
BESIDE = 3
"""Such cells behind three numbers."""


def print_lens(found: "Lens", last: int | None, top: int | None) -> None:
    """What each state says, position by position, and the end or each head in full.

    Args:
        found: Of one prompt.
        last: Positions that are shown; None: what fits a line.
        top: Tokens that are told of the end or of each head; None: what fits a line.
    """
    n = len(found.tokens[0])
    if found.site != "head":
        _print_positions(found, n, last)
    at = int(found.targets[0, n - 1])
    says = "" if found.target == "answer" else ", which the model says"
    typer.echo(f"\nAt the end, of {found.words[at]!r}{says}:")
    _print_end(found, n - 1, BESIDE if top is None else top)
    typer.echo("\nprob., rank: of that token, 0 is on top. KL: from what the model says.")
    typer.echo("Beside them the most probable tokens of the state itself.")


def print_attention_lens(found: "AttentionLens") -> None:
    """What a head would say of each place."""
    rows = []
    told = zip(found.tokens[0], found.words[0], found.shares[0].tolist(), strict=False)
    for at, (token, words, shares) in enumerate(told):
        mass, share, rank = (float(x.values[0, at]) for x in (found.attention, found.probability, found.rank))
        said = [_cell(word, f"{p:.0%}") for word, p in zip(words, shares, strict=True)]
        rows.append([str(at), _cell(token, ""), f"{mass:.2f}", f"{share:.1%}", f"{rank:.0f}", *said[: BESIDE - 1]])
    columns = [str(i + 1) for i in range(min(BESIDE - 1, found.ids.shape[-1]))]
    print_table(["pos", "source", "attention", "prob.", "rank", *columns], rows, right=False)
    of = "the answer" if found.record.settings["target"] == "answer" else "the source token itself"
    typer.echo(f"\nWhat head {found.label} would write of each place, alone.")
    typer.echo(f"prob., rank: of {of}, 0 is on top.")


def print_held_out(rows: list[dict[str, Any]], n: int) -> None:
    """How far a tuned lens is from the model on held-out rows, beside the logit lens."""
    if not rows:
        typer.echo("No row was held out, the corpus is too short: nothing tells how good the lens is.")
        return
    cells = [[str(row["layer"]), *(x for name in ("tuned", "logit") for x in _ends(row[name]))] for row in rows]
    print_table(["layer", "tuned lens", "95 %", "logit lens", "95 %"], cells)
    typer.echo(f"\nKL(what the model says ‖ lens), nats, over {n} held-out rows.")


def _print_positions(found: "Lens", n: int, last: int | None) -> None:
    first = max(0, n - (FIT if last is None else last))
    for start in range(first, n, FIT):
        shown = range(start, min(n, start + FIT))
        heads = [_cell(f"{pos}", "") + f"\n{_cell(found.tokens[0][pos], '')}" for pos in shown]
        rows = [
            [str(layer), *(_cell(word, f"{share:.0%}") for word, share in (found.top(layer, pos)[0] for pos in shown))]
            for layer in found.layers
        ]
        print_table(["layer", *heads], rows, right=False)
    if first and last is None:
        typer.echo(f"\nThe last {n - first} of {n} positions; --last N tells more, --out FILE all.")


def _print_end(found: "Lens", pos: int, top: int) -> None:
    """Numbers and tokens of the end, layer by layer or head by head; tokens that do not fit stand below."""
    heads = [None] if found.site != "head" else range(found.ids.shape[3])
    cells = [(layer, head) for layer in found.layers for head in heads]
    labels = [str(layer) if head is None else f"{layer}.{head}" for layer, head in cells]
    said = [[_cell(word, f"{p:.0%}") for word, p in found.top(layer, pos, head=head)][:top] for layer, head in cells]
    name = "head" if found.site == "head" else "layer"
    rows = []
    for (layer, head), label, words in zip(cells, labels, said, strict=True):
        where = {"layer": layer, "pos": pos} | ({} if head is None else {"head": head})
        share, rank, far = (x.sel(prompt=0, **where).item() for x in (found.probability, found.rank, found.kl))
        rows.append([label, f"{share:.1%}", f"{rank:.0f}", number(far, "nats"), *words[:BESIDE]])
    n = min(top, found.ids.shape[-1])
    print_table([name, "prob.", "rank", "KL, nats", *map(str, range(1, 1 + min(n, BESIDE)))], rows, right=False)
    for start in range(BESIDE, n, FIT):
        rows = [[label, *words[start : start + FIT]] for label, words in zip(labels, said, strict=True)]
        print_table([name, *map(str, range(start + 1, 1 + min(n, start + FIT)))], rows, right=False)


def _cell(word: str, share: str) -> str:
    """A token, and its probability, in a width of their own."""
    from rich.cells import cell_len, set_cell_size
    from rich.markup import escape

    from pellucid.viz.visible import visible

    seen = visible(word)
    if cell_len(seen) > WORD:
        seen = set_cell_size(seen, WORD - 1).rstrip() + "~"
    return escape(set_cell_size(seen, WORD) + f" {share:>4}" if share else seen)


def _ends(cell: dict[str, float | None]) -> list[str]:
    return [number(cell["value"], "nats"), interval(cell["low"], cell["high"], "nats").replace("[", r"\[")]
