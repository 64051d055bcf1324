"""Numbers as people read them in a terminal, at 80 columns, or in a file that the output is piped to."""

from collections.abc import Iterable, Sequence
from typing import Any

import typer

COLUMNS = 80
"""Of a terminal."""
DECIMALS = {"nats": 4}
"""Of numbers, by their unit; else 3."""
NONE = "-"
WIDEST = 1000
"""A terminal wraps what is too wide for it; rich would cut it short."""


def number(value: float | None, unit: str = "") -> str:
    """A number with the decimals that its unit deserves."""
    return NONE if value is None else f"{value:z.{DECIMALS.get(unit, 3)}f}"


def interval(low: float | None, high: float | None, unit: str = "") -> str:
    """The two ends of an interval, or nothing where there is none."""
    return "" if low is None or high is None else f"[{number(low, unit)}, {number(high, unit)}]"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, gap: int = 2, right: bool = True) -> None:
    """A table on stdout, as wide as its cells, none of them cut short, and no line ends in spaces.

    Args:
        columns: Their headings.
        rows: The cells, as rich markup.
        gap: Spaces between columns.
        right: All columns but the first are numbers, which stand to the right.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place and right else "left", vertical="bottom", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, width=WIDEST)
    with console.capture() as shown:
        console.print(table)
    lines = shown.get().rstrip("\n").split("\n")
    print("", *(line.rstrip() for line in lines), sep="\n")


def print_tokens(model: str, settings: dict[str, Any], seed: int | None, about_bos: str) -> None:
    """Which model was read, on which tokens."""
    seq_len, batch = settings["seq_len"], settings["batch"]
    front = "BOS, " if settings["bos"] else ""
    typer.echo(f"model   {model}")
    prompts = "one prompt" if batch == 1 else f"{batch} prompts"
    typer.echo(f"tokens  {prompts} of {front}{seq_len} random tokens and the same {seq_len} again; seed {seed}")
    typer.echo(f"        {about_bos}")
