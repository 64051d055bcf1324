"""`pellucid study ioi`: how a model names the indirect object."""

from textwrap import fill
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli.options import AsJson, Debug, Model, Out, Overwrite, Seed, loaded, print_json, say
from pellucid.cli.tables import interval, number, print_table

if TYPE_CHECKING:
    from pellucid.studies.result import StudyResult

N = Annotated[int, typer.Option("--prompts", "-n", min=2, metavar="N", help="Prompts that are made.")]
NoNeurons = Annotated[bool, typer.Option("--no-neurons", help="Leave neurons out, which take most of the time.")]


def ioi(
    model: Model,
    out: Out = None,
    n: N = 60,
    seed: Seed = 0,
    no_neurons: NoNeurons = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """How a model knows which of two names was not repeated: where, which heads, and what is left without them.

    \b
    Example:
        pellucid study ioi --model toy-ioi --out out/ioi
    """  # noqa: D301  (typer leaves the lines after \b as they are)
    from pellucid.studies.ioi import ioi as find
    from pellucid.studies.ioi_page import ioi_page
    from pellucid.studies.result import check_vacant

    if out is not None:
        check_vacant(out, overwrite=overwrite)
    found = find(loaded(model), n=n, seed=seed, neurons=not no_neurons, progress=say)
    path = None if out is None else found.save(out, page=ioi_page(found), overwrite=overwrite)
    if as_json:
        print_json(found.to_dict(page=path is not None))
        return
    typer.echo(f"model   {found.model}")
    print_ioi(found)
    if path is not None:
        typer.echo(f"Written to {path}")
        typer.echo(f"Report: {path.with_name('report.html')}")


def print_ioi(found: "StudyResult") -> None:
    """Tables of what the study found."""
    from pellucid.studies.ioi import ROLES
    from pellucid.studies.ioi_page import plays

    figures = found.figures

    def row(name: str, words: str) -> list[str]:
        figure = figures[name]
        label = figure.label or ""
        return [words, label, number(figure.value, figure.unit), interval(figure.low, figure.high, figure.unit)]

    told = {
        "accuracy": "prefers the right name",
        "logit_diff": "logit difference",
        "logit_diff_corrupted": "  corrupted",
        "resid_localised_position": "stream, carried by",
        "resid_handover_layer": "  by the end from layer",
        "knockout_none_logit_diff": "on the other half",
        "knockout_found_logit_diff": "  left without",
        "knockout_random_logit_diff": "  left without others",
        "paragraph_loss": "loss, paragraph",
        "sentence_loss": "loss, sentence",
        "sentence_loss_head_0_8_zeroed": "  without values of 0.8",
        "pair_logit_diff_clean": "John and Mary",
        "pair_logit_diff_corrupted": "  corrupted",
    }
    rows = [row(name, words) for name, words in told.items() if figures[name].value is not None]
    if rows:
        print_table(["", "of", "value", "95 % interval"], rows)
    roles = []
    for role in ROLES:
        if figures[f"{role}_head"].value is not None:
            control = number(figures[f"{role}_head_control"].value)
            roles.append([*row(f"{role}_head", role.replace("_", " ")), control, "yes" if plays(found, role) else "no"])
    if roles:
        print_table(["role", "head", "score", "95 % interval", "control", "clear"], roles)
        typer.echo("Each head was chosen on one half of the prompts; figures come from the other.")
        typer.echo("Control: prompts in which no name is repeated; for the previous token,")
        typer.echo("uniform attention.")
    missing = [figure.reason for figure in figures.values() if figure.value is None and figure.reason is not None]
    for reason in dict.fromkeys(missing):
        typer.echo(fill(f"Missing: {reason.rstrip('.')}.", 78, subsequent_indent="  "))
