"""`pellucid study contractions`: how a model keeps a grammatical habit."""

from textwrap import fill
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli.options import AsJson, Debug, Model, Out, Overwrite, Seed, loaded, opened, print_json, say
from pellucid.cli.tables import interval, number, print_table

if TYPE_CHECKING:
    from pellucid.studies.result import StudyResult

N = Annotated[
    int | None,
    typer.Option("--prompts", "-n", min=2, metavar="N", help="Prompts; if not told, one of each frame for each group."),
]
Delta = Annotated[
    float, typer.Option("--delta", min=1e-6, metavar="LOGITS", help="The smallest difference of groups that matters.")
]
Texts = Annotated[
    str | None, typer.Option("--corpus", metavar="PATH", help="Texts in which the neurons found are looked for.")
]
NoNeurons = Annotated[bool, typer.Option("--no-neurons", help="Leave neurons out, which take most of the time.")]


def contractions(
    model: Model,
    out: Out = None,
    n: N = None,
    seed: Seed = 0,
    delta: Delta = 0.2,
    corpus: Texts = None,
    no_neurons: NoNeurons = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Who has read a contraction contracts: which parts keep the habit, and what do its kinds share?

    \b
    Example:
        pellucid study contractions --model gpt2 --out out/contractions
    """  # noqa: D301  (typer leaves the lines after \b as they are)
    from pellucid.base.errors import ArgumentError
    from pellucid.studies.contractions import contractions as find
    from pellucid.studies.contractions_frames import check_delta
    from pellucid.studies.contractions_page import contractions_page
    from pellucid.studies.contractions_parts import contexts, top_neurons, with_texts
    from pellucid.studies.result import check_vacant
    from pellucid.text.corpus import Corpus

    check_delta(delta)
    if corpus is not None and no_neurons:
        raise ArgumentError(
            f"--corpus looks for the neurons that were found, and --no-neurons leaves them out, got --corpus {corpus} "
            "and --no-neurons; leave one of them out"
        )
    if out is not None:
        check_vacant(out, overwrite=overwrite)
    texts = None if corpus is None else opened(Corpus(source=corpus))
    read = loaded(model)
    found = find(read, n=n, seed=seed, delta=delta, neurons=not no_neurons, progress=say)
    seen = None
    if texts is not None and top_neurons(found.measurements):
        say("texts that excite the neurons found")
        seen = contexts(read, found.measurements, texts)
        found = with_texts(found, seen)
    path = None if out is None else found.save(out, page=contractions_page(found, seen), overwrite=overwrite)
    if as_json:
        print_json(found.to_dict(page=path is not None))
        return
    typer.echo(f"model   {found.model}")
    print_contractions(found)
    if path is not None:
        typer.echo(f"Written to {path}")
        typer.echo(f"Report: {path.with_name('report.html')}")


def print_contractions(found: "StudyResult") -> None:
    """A table of what the study found; of the parts that were compared, those alone that differ."""
    from pellucid.studies.contractions_groups import CONTRASTS

    rows = []
    for name, figure in found.figures.items():
        compared = name.split()[0] in ("groups", *CONTRASTS)
        if figure.value is not None and not (compared and figure.label != "different"):
            words = name.replace("_", " ")
            sure = interval(figure.low, figure.high, figure.unit)
            rows.append([words, figure.label or "", number(figure.value, figure.unit), sure])
    if rows:
        print_table(["logits", "of", "value", "95 % interval"], rows)
    habit = found.figures["habit"]
    if habit.label == "not shown":
        typer.echo(fill(f"The habit is not shown, and what follows from it is exploratory: {habit.reason}.", 78))
    missing = [figure.reason for figure in found.figures.values() if figure.value is None and figure.reason is not None]
    for reason in dict.fromkeys(missing):
        typer.echo(fill(f"Missing: {reason.rstrip('.')}.", 78, subsequent_indent="  "))
