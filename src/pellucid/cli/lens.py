"""`pellucid lens`: what the model would say at each layer and position; and the training of a tuned lens."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.options import AsJson, Debug, Model, loaded, print_json, say
from pellucid.cli.tables import COLUMNS, number, print_table

if TYPE_CHECKING:
    from pellucid.analysis.lens import Lens
    from pellucid.analysis.tuned_lens import TunedLens
    from pellucid.hooked_transformer import HookedTransformer

WORD = 8
"""Columns of a token in the table of positions."""
CELL = WORD + 5
"""With its probability: ``·the      34%``."""

Text = Annotated[str | None, typer.Argument(metavar="TEXT", help="What the model reads.", show_default=False)]
Answer = Annotated[
    str | None,
    typer.Option("--answer", metavar="A", help="One token whose rank is told.  [default: what the model says there]"),
]
Where = Annotated[str, typer.Option("--site", metavar="SITE", help="resid, attn_out, mlp_out or head.")]
Top = Annotated[int, typer.Option("--top", min=1, metavar="K", help="Tokens that are told of each state.")]
Last = Annotated[
    int | None,
    typer.Option("--last", min=1, metavar="N", help="Positions that are shown.  [default: the last 5]"),
]
Tuned = Annotated[
    Path | None, typer.Option("--tuned", metavar="FOLDER", help="A tuned lens to look through.", show_default=False)
]
Train = Annotated[
    str | None,
    typer.Option("--train", metavar="CORPUS", help="Train a tuned lens on this file or folder, into --out."),
]
Steps = Annotated[int, typer.Option("--steps", min=1, metavar="N", help="Of training.")]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of training.")]
OutFile = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="The page, as .html; the folder of a lens that is trained.")
]
Replace = Annotated[bool, typer.Option("--overwrite", help="Replace what --out names.")]


def lens(
    model: Model,
    text: Text = None,
    answer: Answer = None,
    site: Where = "resid",
    top: Top = 5,
    last: Last = None,
    tuned: Tuned = None,
    train: Train = None,
    steps: Steps = 250,
    seed: Seed = 0,
    out: OutFile = None,
    overwrite: Replace = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """What the model would say if it stopped at a state: layer by layer, position by position.

    Each state goes through the final norm, recomputed for it, and the unembedding. Of resid, row l is the stream that
    layer l reads, and the last one the final stream. Of heads, what each writes at the end is told.

    \b
    Example:
        pellucid lens "5 9 7 3 5 9" --model toy-induction --answer 7 --out lens.html
        pellucid lens --model prose-2l-mixed --train texts/ --out tuned
        pellucid lens "The cat sat" --model prose-2l-mixed --tuned tuned
    """  # noqa: D301  (typer leaves the lines after \b as they are)
    from pellucid.base.errors import ArgumentError, OutputError

    if (text is None) == (train is None):
        found = "none" if text is None else "both"
        raise ArgumentError(f"either a TEXT to look at or --train CORPUS must be given, got {found}; see --help")
    if train is not None:
        _train(model, train, steps=steps, seed=seed, out=out, overwrite=overwrite, as_json=as_json)
        return
    if out is not None and out.exists() and not overwrite:
        raise OutputError(f"{out} is there already; choose another file, or add --overwrite")
    from pellucid.analysis.lens import logit_lens

    read = loaded(model)
    through = None if tuned is None else _tuned(tuned, read)
    say("looking at each state")
    found = logit_lens(read, text, site=site, answer=_answer(read, answer), k=top, lens=through)
    if out is not None:
        from pellucid.studies.lens_page import lens_page

        lens_page(found).save(out)
    if as_json:
        print_json(_told(found))
        return
    _print(found, last)
    if out is not None:
        typer.echo(f"\nWritten to {out}")


def _train(model: str, corpus: str, *, steps: int, seed: int, out: Path | None, overwrite: bool, as_json: bool) -> None:
    """Trains a tuned lens, and tells what it brings."""
    from pellucid.analysis.tuned_lens import train_tuned_lens
    from pellucid.base.errors import ArgumentError, OutputError
    from pellucid.text.corpus import Corpus

    if out is None:
        raise ArgumentError("--train needs a place for the lens, got none; add --out FOLDER")
    if (out / "tuned_lens.json").exists() and not overwrite:
        raise OutputError(f"{out} holds a tuned lens already; choose another folder, or add --overwrite")
    read = loaded(model)
    say("training a tuned lens")
    made = train_tuned_lens(read, Corpus(source=corpus, longest=4000), steps=steps, seed=seed)
    made.save(out, overwrite=overwrite)
    rows = []
    if made.held_out is not None:
        both = {name: kl.mean("prompt").dataset for name, kl in made.held_out._asdict().items()}
        for layer in range(len(made.weight)):
            told = {name: {key: _finite(x[key][layer]) for key in ("value", "low", "high")} for name, x in both.items()}
            rows.append({"layer": layer} | told)
    if as_json:
        print_json({"model": model, "record": made.record.to_dict(), "held_out": rows, "out": str(out)})
        return
    if rows:
        cells = [[str(row["layer"]), *(x for name in both for x in _ends(row[name]))] for row in rows]
        print_table(["layer", "tuned lens", "95 %", "logit lens", "95 %"], cells)
        held = made.record.settings["held_out_rows"]
        typer.echo(f"\nKL(what the model says ‖ lens), nats, over {held} held-out rows.")
    else:
        typer.echo("No row was held out, the corpus is too short: nothing tells how good the lens is.")
    typer.echo(f"Written to {out}")


def _tuned(folder: Path, model: "HookedTransformer") -> "TunedLens":
    from pellucid.analysis.tuned_lens import TunedLens

    return TunedLens.load(folder, model)


def _answer(model: "HookedTransformer", answer: str | None) -> int | None:
    """The token that is meant, with a space in front where the tokenizer wants one."""
    from pellucid.base.errors import TokenError
    from pellucid.tasks.task import word_token

    if model.tokenizer is None:
        raise TokenError("a text needs a tokenizer, and this model came without one; give token ids from Python")
    if answer is None:
        return None
    return word_token(model.tokenizer, answer.strip()) if answer.strip() else model.tokenizer.single(answer)


def _print(found: "Lens", last: int | None) -> None:
    if found.site == "head":
        _print_heads(found)
        return
    n = len(found.tokens[0])
    fit = (COLUMNS - 5) // (CELL + 2)
    first = max(0, n - (fit if last is None else last))
    for start in range(first, n, fit):
        shown = range(start, min(n, start + fit))
        heads = [_cell(f"{pos}", "") + f"\n{_cell(found.tokens[0][pos], '')}" for pos in shown]
        rows = [
            [str(layer), *(_cell(word, f"{share:.0%}") for word, share in (found.top(layer, pos)[0] for pos in shown))]
            for layer in found.layers
        ]
        print_table(["layer", *heads], rows, right=False)
    if first and last is None:
        typer.echo(f"\nThe last {n - first} of {n} positions; --last N tells more, --out FILE all.")
    _print_end(found, n - 1)


def _print_end(found: "Lens", pos: int) -> None:
    """What the end says of the answer, layer by layer."""
    at = int(found.targets[0, pos])
    typer.echo(f"\nAt the end, of {found.words[at]!r}{'' if found.target == 'answer' else ', which the model says'}:")
    rows = []
    for layer in found.layers:
        share, rank, far = (_at(x, layer=layer, pos=pos) for x in (found.probability, found.rank, found.kl))
        rows.append([str(layer), f"{share:.1%}", f"{rank + 1:.0f}", number(far, "nats")])
    print_table(["layer", "probability", "rank", "KL, nats"], rows)
    typer.echo("\nrank 1 is on top; KL: how far what the state says is from what the model says.")


def _print_heads(found: "Lens") -> None:
    """What each head says at the end."""
    fit = (COLUMNS - 5) // (CELL + 2)
    rows = []
    for layer in found.layers:
        for head in range(found.ids.shape[3]):
            said = [_cell(word, f"{share:.0%}") for word, share in found.top(layer, -1, head=head)]
            rows.append([f"{layer}.{head}", *said[:fit]])
    print_table(["head", *map(str, range(1, 1 + min(fit, found.ids.shape[-1])))], rows, right=False)
    typer.echo("\nWhat each head writes at the end, alone: its most probable tokens.")


def _cell(word: str, share: str) -> str:
    """A token, and its probability, in a width of their own."""
    from rich.cells import cell_len, set_cell_size
    from rich.markup import escape

    from pellucid.viz.visible import visible

    seen = visible(word)
    if cell_len(seen) > WORD:
        seen = set_cell_size(seen, WORD - 1).rstrip() + "~"
    return escape(set_cell_size(seen, WORD) + f" {share:>4}" if share else seen)


def _at(measured: Any, **labels: int) -> float:
    return measured.sel(prompt=0, **labels).item()


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _ends(cell: dict[str, float | None]) -> list[str]:
    from pellucid.cli.tables import interval

    return [number(cell["value"], "nats"), interval(cell["low"], cell["high"], "nats").replace("[", r"\[")]


def _told(found: "Lens") -> dict[str, Any]:
    """All of it for programs; a list for each layer, of each position (and of each head there)."""
    values = {name: _plain(getattr(found, name).values[0].tolist()) for name in ("probability", "rank", "kl")}
    top = _plain(found.ids[0].tolist(), found.words.get), _plain(found.shares[0].tolist())
    asked = [None if i < 0 else found.words[i] for i in found.targets[0].tolist()]
    return {
        "model": found.record.model,
        "record": found.record.to_dict(),
        "site": found.site,
        "target": found.target,
        "tokens": found.tokens[0],
        "asked": asked,
        "layers": found.layers,
        "top": top[0],
        "shares": top[1],
        **values,
    }


def _plain(values: Any, to: Any = None) -> Any:
    """Nested lists with each number replaced; NaN is null."""
    if isinstance(values, list):
        return [_plain(value, to) for value in values]
    return to(values) if to is not None else _finite(values)
