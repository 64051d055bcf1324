"""`pellucid study NAME`: runs a study, prints what it found, and writes it to a folder."""

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli import attention_only, contractions, emergence, ioi
from pellucid.cli.options import AsJson, Batch, Debug, Model, Out, Overwrite, Seed, SeqLen, loaded, print_json, say
from pellucid.cli.tables import interval, number, print_table, print_tokens

if TYPE_CHECKING:
    from pellucid.studies.result import Figure, StudyResult

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

NoBos = Annotated[bool, typer.Option("--no-bos", help="Leave BOS out where the model has one (a known trap).")]
Rule = Annotated[
    str | None,
    typer.Option("--rule", metavar="RULE", help="Measure as a publication did: article or introduction."),
]
Second = Annotated[
    str | None,
    typer.Option("--second", metavar="MODEL", help="Another model, whose heads are scored on the same tokens."),
]
Reference = Annotated[
    Path | None,
    typer.Option("--reference", metavar="FOLDER", help="Numbers of the real GPT-2 small, to compare q·k with."),
]


@app.callback()
def study() -> None:
    """Run a study, print what it found, and write it to a folder."""


app.command("attention-only", short_help="Small language models are trained: which setting matters how much?")(
    attention_only.attention_only
)
app.command("contractions", short_help="Contractions: which parts keep a grammatical habit?")(contractions.contractions)
app.command("emergence", short_help="Small models are trained: in how many do induction heads form?")(
    emergence.emergence
)


app.command("ioi", short_help="Indirect objects: which heads name the one that was not repeated?")(ioi.ioi)


@app.command("induction", short_help="Prediction of random tokens that repeat.")
def induction(
    model: Model,
    out: Out = None,
    seq_len: SeqLen = None,
    batch: Batch = 30,
    seed: Seed = 0,
    no_bos: NoBos = False,
    rule: Rule = None,
    second: Second = None,
    reference: Reference = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """How well a model predicts random tokens that repeat, and which heads do it.

    \b
    Example:
        pellucid study induction --model toy-induction --out out/tour
    """  # noqa: D301  (typer leaves the lines after \b as they are)
    from pellucid.analysis.reading import about_bos
    from pellucid.analysis.repeated import repeated_tokens
    from pellucid.studies.induction import induction as find
    from pellucid.studies.induction_page import induction_page
    from pellucid.studies.result import check_vacant

    if out is not None:
        check_vacant(out, overwrite=overwrite)
    read = loaded(model)
    tokens = repeated_tokens(read, seq_len=seq_len, batch=batch, seed=seed, rule=rule, bos=False if no_bos else None)
    beside = None if second is None else loaded(second)
    found = find(read, tokens, second=beside, reference=reference, progress=say)
    path = None if out is None else found.save(out, page=induction_page(found), overwrite=overwrite)
    if as_json:
        print_json(found.to_dict(page=path is not None))
        return
    print_tokens(found.model, found.record.settings, found.record.seed, about_bos(read, left_out=tokens.bos_left_out))
    print_induction(found)
    if path is not None:
        typer.echo(f"Written to {path}")
        typer.echo(f"Report: {path.with_name('report.html')}")


def print_induction(found: "StudyResult") -> None:
    """Tables of what the study of repeated tokens found."""
    from pellucid.maths.statistics import split
    from pellucid.studies.induction import CUT, objections

    figures, batch = found.figures, found.record.settings["batch"]
    halves = []
    for name, words in (("logprob", "log-probability"), ("accuracy", "accuracy")):
        sides = [figures[f"{name}_{half}_half"] for half in ("first", "second")]
        halves.append([words, *(cell for side in sides for cell in _mean(side))])
    print_table(["half", "first", "95 % interval", "second", "95 % interval"], halves)
    rows = []
    for name in ("induction_head", CUT, "previous_token_head", "duplicate_token_head", "prefix_matching_head"):
        figure, control = figures[name], figures.get(f"{name}_control")
        words = (
            "  without previous-token heads" if name == CUT else name.replace("_token_", "-token ").replace("_", " ")
        )
        rows.append([words, figure.label or "", *_mean(figure), number(control.value) if control else ""])
    print_table(["attention mass", "head", "score", "95 % interval", "control"], rows)
    _print_circuit(found)
    against = objections(found)
    head = figures["induction_head"].label
    typer.echo()
    if not against:
        typer.echo(f"Head {head} is an induction head: clear of its control, at other periods too,")
        typer.echo("and gone without previous-token heads.")
    elif head is not None:
        typer.echo(f"Head {head} is not called an induction head:")
        for reason in against:
            typer.echo(fill(f"{reason}.", 78, initial_indent="  ", subsequent_indent="    "))
    choosing, reporting = map(len, split(batch))
    if batch > 1:
        typer.echo(f"Each head was chosen on {choosing} of the prompts; its figures come from the other {reporting}.")
    else:
        typer.echo("Each head was chosen on the prompt that its figures come from: they flatter it.")
        typer.echo("One prompt has no interval.")
    typer.echo("Control: tokens that do not repeat; for the previous token, uniform attention.")
    missing = [figure.reason for figure in figures.values() if figure.value is None and figure.reason is not None]
    for reason in dict.fromkeys(missing):
        typer.echo(fill(f"Missing: {reason}.", 78, subsequent_indent="  "))


def _print_circuit(found: "StudyResult") -> None:
    """What the weights and the MLPs say, where the model has them."""
    shares = [found.figures[f"two_head_circuit_top1_{way}"] for way in ("key_per_query", "query_per_key")]
    shift = found.figures["mlp_shift_max_delta_loss"]
    rows = []
    if shares[0].value is not None:
        for way, figure in zip(("best key is itself", "best query is itself"), shares, strict=True):
            rows.append([f"in the weights, {way}", figure.label or "", *_mean(figure)])
    if shift.value is not None:
        rows.append(["largest Δ loss by one shifted MLP", shift.label or "", *_mean(shift)])
    if rows:
        print_table(["circuit", "of", "value", "95 % interval"], rows)


def _mean(figure: "Figure") -> tuple[str, str]:
    return number(figure.value, figure.unit), interval(figure.low, figure.high, figure.unit)
