"""`pellucid study attention-only`: trains small language models, and tells which setting matters how much."""

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli.options import AsJson, Debug, Overwrite
from pellucid.cli.tables import COLUMNS, interval, number, print_table
from pellucid.cli.trained import Count, Resume, Where, by_trainings

if TYPE_CHECKING:
    from pellucid.studies.result import StudyResult

Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="NAME=SOURCE …",
        help="Texts to train on: files, folders or data sets, such as imdb=reviews.csv.  [default: text made here]",
        show_default=False,
    ),
]
More = Annotated[list[str] | None, typer.Argument(metavar="NAME=SOURCE", show_default=False, hidden=True)]
Text = Annotated[str | None, typer.Option("--text", metavar="TEXT", help="What attention is shown on.")]
Beside = Annotated[
    list[str] | None,
    typer.Option("--beside", metavar="MODEL", help="A model whose heads are shown too.  [default: prose-2l-mixed]"),
]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer and shorter runs, for a first look.")]
Full = Annotated[bool, typer.Option("--full", help="The source's whole grid, at length: for machines with GPUs.")]


def attention_only(
    out: Where,
    more: More = None,
    data: Data = None,
    text: Text = None,
    beside: Beside = None,
    quick: Quick = False,
    full: Full = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    processes: Count = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Language models small enough to read whole: which setting was to blame, and what do few layers learn?

    \b
    Example:
        pellucid study attention-only --out out/attention-only --quick
        pellucid study attention-only --data imdb=reviews.csv wikitext=wiki/ --out out/attention-only
    """  # noqa: D301  (typer leaves the lines after \b as they are)
    from functools import partial

    from pellucid.studies.attention_only import TEXT, jobs_of
    from pellucid.studies.attention_only import attention_only as find
    from pellucid.studies.attention_only_arms import BUNDLED, MADE, Sizes
    from pellucid.studies.attention_only_page import attention_only_page
    from pellucid.studies.attention_only_runs import run

    texts, shown = _texts([*(data or []), *(more or [])]) or {"made": MADE}, text or TEXT
    if quick and full:
        raise typer.BadParameter("one of --quick and --full must be chosen, got both")
    asked = {"text": shown, "quick": quick, "full": full}
    by_trainings(
        out,
        {"study": "attention-only", "data": texts, **asked},
        lambda: jobs_of(texts, Sizes(quick=quick, full=full), shown),
        partial(find, texts, beside=tuple(beside or (BUNDLED,)), **asked),
        attention_only_page,
        print_attention_only,
        resume=resume,
        overwrite=overwrite,
        processes=processes,
        as_json=as_json,
        together=run,
    )


def _texts(given: list[str]) -> dict[str, str]:
    """Texts by name."""
    found: dict[str, str] = {}
    for one in given:
        name, sign, source = one.partition("=")
        if not sign or not name.isidentifier() or not source:
            raise typer.BadParameter(f"a text must be NAME=SOURCE, such as imdb=reviews.csv, got {one!r}")
        if name in found:
            raise typer.BadParameter(f"each text must have a name of its own, got {name!r} twice")
        found[name] = source
    return found


def print_attention_only(found: "StudyResult") -> None:
    """The main figures and the verdicts."""
    from pellucid.studies.attention_only_arms import LAYERS, SETTINGS
    from pellucid.studies.attention_only_page import verdicts

    settings = found.record.settings
    typer.echo(f"{found.model}, {settings['steps']} steps each, on {', '.join(settings['data'])}")
    if "made" in settings["data"]:
        typer.echo("The text was made here by rules, since none was named (--data).")
    told = {f"bits_per_byte_{arm.name}": f"{arm.words}" for arm in LAYERS}
    told |= {"bits_per_byte_counted_bigrams": "counted bigrams", "bits_per_byte_source": "the source's setting"}
    told |= {f"cost_of_{name}": f"cost: {one.words} {one.theirs}" for name, one in SETTINGS.items()}
    rows = []
    for name, words in told.items():
        figure = found.figures[name]
        ends = interval(figure.low, figure.high, figure.unit) or (figure.reason if figure.value is None else "") or ""
        rows.append([words, number(figure.value, figure.unit), ends])
    print_table(["bits per byte", "", "95 % interval"], rows)
    typer.echo()
    for question, answer in verdicts(found).items():
        typer.echo(textwrap.fill(f"{question} {answer}", COLUMNS, subsequent_indent="  "))
