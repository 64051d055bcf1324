"""The options that several commands have, and what a command does with them before it begins."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pellucid.hooked_transformer import HookedTransformer
    from pellucid.text.corpus import Corpus

Model = Annotated[
    str,
    typer.Option("--model", metavar="MODEL", help="A folder, a bundled model (see `pellucid models`), or a hub name."),
]
SeqLen = Annotated[
    int | None,
    typer.Option(
        "--seq-len", min=2, metavar="S", help="Tokens of a half.  [default: 50, or what fits the model's context]"
    ),
]
Batch = Annotated[int, typer.Option("--batch", min=1, metavar="N", help="Prompts.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, metavar="N", help="Of the random tokens.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where to write the report and the numbers.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that lie in DIR.")]
Replace = Annotated[bool, typer.Option("--overwrite", help="Replace what --out names.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs, and nothing else, on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def say(what: str) -> None:
    """Progress, on stderr."""
    typer.echo(f"{what} …", err=True)


def loaded(name: str) -> "HookedTransformer":
    """The model of a name, with a word about it on stderr."""
    say(f"loading {name}")
    from pellucid.hooked_transformer import HookedTransformer

    return HookedTransformer.from_pretrained(name)


def check_page(out: Path | None, *, overwrite: bool) -> None:
    """Whether a page can be written there, asked before the work.

    Raises:
        OutputError: It is there already, is no page, or cannot be written.
    """
    from pellucid.base.errors import OutputError
    from pellucid.base.files import check_place

    if out is None:
        return
    if out.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"--out must name a page, such as page.html, got {out}")
    check_place(out)
    if out.exists() and not overwrite:
        raise OutputError(f"{out} is there already; choose another file, or add --overwrite")


def opened(texts: "Corpus") -> "Corpus":
    """A corpus of which a text was read: what cannot be read is told before the work, not after it."""
    next(iter(texts), None)
    return texts


def print_json(values: Any) -> None:
    """Values on stdout, as JSON without NaN."""
    typer.echo(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))
