"""`pellucid lens`: what the model would say at each layer and position; and the training of a tuned lens."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.options import AsJson, Debug, Model, Replace, check_page, loaded, opened, print_json, say

if TYPE_CHECKING:
    from pellucid.analysis.lens import Lens
    from pellucid.analysis.lens_attention import AttentionLens
    from pellucid.hooked_transformer import HookedTransformer

TOLD, STEPS, SEED = 5, 250, 0
"""Tokens of each state, steps of training and its seed, if not told otherwise."""

Text = Annotated[str | None, typer.Argument(metavar="TEXT", help="What the model reads.", show_default=False)]
Answer = Annotated[
    str | None,
    typer.Option(
        "--answer",
        metavar="A",
        help="One token whose rank is told, with a space in front where the model has such a token.  "
        "[default: what the model says there]",
    ),
]
AnswerId = Annotated[
    int | None, typer.Option("--answer-id", min=0, metavar="ID", help="The same by its id.", show_default=False)
]
Where = Annotated[
    str | None, typer.Option("--site", metavar="SITE", help="resid, attn_out, mlp_out or head.  [default: resid]")
]
Head = Annotated[
    str | None,
    typer.Option(
        "--head", metavar="L.H", help="What this head would say of each place it may look at.", show_default=False
    ),
]
Top = Annotated[
    int | None, typer.Option("--top", min=1, metavar="K", help="Tokens that are told of each state.  [default: 5]")
]
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
Steps = Annotated[int | None, typer.Option("--steps", min=1, metavar="N", help="Of training.  [default: 250]")]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, max=2**63 - 1, metavar="N", help="Of training.  [default: 0]")
]
OutFile = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="The page, as .html; the folder of a lens that is trained.")
]


def lens(
    model: Model,
    text: Text = None,
    answer: Answer = None,
    answer_id: AnswerId = None,
    site: Where = None,
    head: Head = None,
    top: Top = None,
    last: Last = None,
    tuned: Tuned = None,
    train: Train = None,
    steps: Steps = None,
    seed: Seed = None,
    out: OutFile = None,
    overwrite: Replace = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """What the model would say if it stopped at a state: layer by layer, position by position.

    Each state goes through the final norm, recomputed for it, and the unembedding. Of resid, row l is the stream that
    layer l reads, and the last one the final stream. Of heads, what each writes at the end is told. Rank 0 is on top.

    \b
    Example:
        pellucid lens "5 9 7 3 5 9" --model toy-induction --answer 7 --out lens.html
        pellucid lens "5 9 7 3 5 9" --model toy-induction --head 1.0
        pellucid lens --model prose-2l-mixed --train texts/ --out tuned
        pellucid lens "The cat sat" --model prose-2l-mixed --tuned tuned
    """  # noqa: D301  (typer leaves the lines after \b as they are)
    from pellucid.analysis.lens import check_site
    from pellucid.base.errors import ArgumentError

    if (text is None) == (train is None):
        found = "none" if text is None else "both"
        raise ArgumentError(f"either a TEXT to look at or --train CORPUS must be given, got {found}; see --help")
    asking = {"--answer": answer, "--answer-id": answer_id}
    if train is not None:
        _refuse("to --train", asking | {"--site": site, "--head": head, "--top": top, "--last": last, "--tuned": tuned})
        steps, seed = STEPS if steps is None else steps, SEED if seed is None else seed
        _train(model, train, steps=steps, seed=seed, out=out, overwrite=overwrite, as_json=as_json)
        return
    _refuse("without --train", {"--steps": steps, "--seed": seed})
    if answer is not None and answer_id is not None:
        raise ArgumentError(f"--answer and --answer-id both name a token, got {answer!r} and {answer_id}; give one")
    if head is not None:
        _refuse("to --head", {"--site": site, "--tuned": tuned, "--last": last})
        if not re.fullmatch(r"\d+\.\d+", head):
            raise ArgumentError(f"--head must be a layer and a head, such as 1.0, got {head!r}")
    elif site == "head" or as_json:
        _refuse(f"to {'--json' if as_json else '--site head'}", {"--last": last})
    if site is not None:
        check_site(site, what="--site")
    check_page(out, overwrite=overwrite)
    read = loaded(model)
    asked = answer_id if answer is None else _answer(read, answer)
    if head is not None:
        _look_by_head(read, text, head, asked, top or TOLD, out, as_json)
        return
    _look(read, text, site or "resid", asked, top, last, tuned, out, as_json)


def _look(
    model: "HookedTransformer",
    text: str | None,
    site: str,
    answer: int | None,
    top: int | None,
    last: int | None,
    tuned: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Reads each state, and tells what was found."""
    from pellucid.analysis.lens import logit_lens
    from pellucid.analysis.tuned_lens import TunedLens
    from pellucid.cli.lens_tables import print_lens

    through = None if tuned is None else TunedLens.load(tuned, model)
    say("looking at each state")
    positions = [-1] if site == "head" and not as_json else None  # all that the terminal and a page tell of heads
    found = logit_lens(model, text, site=site, answer=answer, k=top or TOLD, positions=positions, lens=through)
    if out is not None:
        from pellucid.studies.lens_page import lens_page

        lens_page(found).save(out)
    if as_json:
        print_json(_told(found))
        return
    print_lens(found, last, top)
    if out is not None:
        typer.echo(f"\nWritten to {out}")


def _look_by_head(
    model: "HookedTransformer",
    text: str | None,
    head: str,
    answer: int | None,
    top: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Reads what one head would say of each place."""
    from pellucid.analysis.lens_attention import attention_lens
    from pellucid.cli.lens_tables import print_attention_lens

    say(f"looking through head {head}")
    layer, at = map(int, head.split("."))
    found = attention_lens(model, text, layer, at, answer=answer, k=top)
    if out is not None:
        from pellucid.studies.lens_page import attention_lens_page

        attention_lens_page(found).save(out)
    if as_json:
        print_json(_told_by_head(found))
        return
    print_attention_lens(found)
    if out is not None:
        typer.echo(f"\nWritten to {out}")


def _refuse(where: str, options: dict[str, Any]) -> None:
    """Options that mean nothing there."""
    from pellucid.base.errors import ArgumentError

    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ArgumentError(f"{', '.join(given)} {'means' if len(given) == 1 else 'mean'} nothing {where}; leave out")


def _train(model: str, corpus: str, *, steps: int, seed: int, out: Path | None, overwrite: bool, as_json: bool) -> None:
    """Trains a tuned lens, and tells what it brings."""
    from pellucid.analysis.tuned_lens import train_tuned_lens
    from pellucid.analysis.tuned_lens_files import check_folder
    from pellucid.base.errors import ArgumentError
    from pellucid.cli.lens_tables import print_held_out
    from pellucid.text.corpus import Corpus

    if out is None:
        raise ArgumentError("--train needs a place for the lens, got none; add --out FOLDER")
    check_folder(out, overwrite=overwrite)
    texts = opened(Corpus(source=corpus, longest=4000))
    read = loaded(model)
    say("training a tuned lens")
    made = train_tuned_lens(read, texts, steps=steps, seed=seed)
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
    print_held_out(rows, made.record.settings["held_out_rows"])
    typer.echo(f"Written to {out}")


def _answer(model: "HookedTransformer", answer: str) -> int:
    """The token that is meant, with a space in front where the tokenizer has such a one."""
    from pellucid.base.errors import TokenError
    from pellucid.tasks.task import word_token

    if model.tokenizer is None:
        raise TokenError("--answer needs a tokenizer, and this model came without one; give --answer-id")
    return word_token(model.tokenizer, answer.strip()) if answer.strip() else model.tokenizer.single(answer)


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


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


def _told_by_head(found: "AttentionLens") -> dict[str, Any]:
    """All of it for programs; a list of each position."""
    return {
        "model": found.record.model,
        "record": found.record.to_dict(),
        "head": found.label,
        "tokens": found.tokens[0],
        "top": found.words[0],
        "shares": _plain(found.shares[0].tolist()),
        **{name: _plain(getattr(found, name).values[0].tolist()) for name in ("probability", "rank", "attention")},
    }


def _plain(values: Any, to: Any = None) -> Any:
    """Nested lists with each number replaced; NaN is null."""
    if isinstance(values, list):
        return [_plain(value, to) for value in values]
    return to(values) if to is not None else _finite(values)
