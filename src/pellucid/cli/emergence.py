"""`pellucid study emergence`: trains many small models, and tells in how many induction heads form."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli.options import AsJson, Debug, Overwrite, print_json
from pellucid.cli.tables import interval, number, print_table

if TYPE_CHECKING:
    from pellucid.studies.result import StudyResult

JOURNAL = "journal"
TOLD = (
    "share_with_induction",
    "share_with_previous_token",
    "share_with_induction_four_heads",
    "share_with_previous_token_four_heads",
    "phase_step_median",
    "phase_width_median",
    "fixed_one_layer_accuracy",
    "fixed_one_layer_accuracy_elsewhere",
    "random_period_accuracy_elsewhere",
    "score_first_third",
    "score_last_third",
    "break_off_position",
    "break_off_position_random_offset",
    "effective_rank_position",
    "effective_rank_position_decay_strong",
    "encoder_decoder_accuracy",
    "encoder_decoder_accuracy_without_decoder_attention",
    "encoder_decoder_blanks_accuracy",
    "encoder_decoder_blanks_accuracy_without_decoder_attention",
)
"""The figures that the terminal shows."""

Where = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write the report and the numbers.")]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer and shorter runs, for a first look: two minutes.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a study that was interrupted.")]
Count = Annotated[
    int | None, typer.Option("--processes", min=1, metavar="N", help="Runs at a time.  [default: one a core]")
]


def emergence(
    out: Where,
    quick: Quick = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    processes: Count = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Watch induction heads form: in what share of the runs, when, and from what?

    \b
    Example:
        pellucid study emergence --out out/emergence --quick
    """  # noqa: D301  (typer leaves the lines after \b as they are)
    from pellucid.base.progress import progress
    from pellucid.distributed.journal import Journal
    from pellucid.distributed.processes import Processes
    from pellucid.studies.emergence import emergence as find
    from pellucid.studies.emergence import jobs_of
    from pellucid.studies.emergence_arms import Sizes
    from pellucid.studies.emergence_page import emergence_page

    _check_folder(out, resume=resume, overwrite=overwrite)
    journal = Journal.open(out / JOURNAL, identity={"study": "emergence", "quick": quick})
    jobs = journal.jobs or jobs_of(Sizes(quick=quick))
    done = sum(journal.jobs is not None and journal.read(job) is not None for job in jobs)
    with progress(len(jobs), "trainings", done=done) as advance:
        found = find(quick=quick, executor=Processes(processes), journal=journal, advance=advance)
    path = found.save(out, page=emergence_page(found), overwrite=overwrite)
    shutil.rmtree(out / JOURNAL, ignore_errors=True)
    if as_json:
        print_json(found.to_dict(page=True))
        return
    print_emergence(found)
    typer.echo(f"Written to {path}")
    typer.echo(f"Report: {path.with_name('report.html')}")


def print_emergence(found: "StudyResult") -> None:
    """The main figures and the verdicts."""
    from pellucid.studies.emergence_page import needs, verdicts

    typer.echo(f"{found.model}, {found.record.settings['steps']} steps each")
    rows = []
    for name in TOLD:
        figure = found.figures[name]
        ends = interval(figure.low, figure.high, figure.unit) or figure.reason or ""
        rows.append([name.replace("_", " "), number(figure.value, figure.unit), ends, figure.unit])
    print_table(["", "", "95 % interval", "unit"], rows)
    typer.echo()
    for question, answer in verdicts(found).items():
        typer.echo(f"{question} {answer}")
    for answer in needs(found):
        typer.echo(f"Encoder–decoder: {answer}")


def _check_folder(out: Path, *, resume: bool, overwrite: bool) -> None:
    from pellucid.base.errors import OutputError
    from pellucid.studies.result import check_vacant

    check_vacant(out, overwrite=overwrite)
    if overwrite:
        shutil.rmtree(out / JOURNAL, ignore_errors=True)
    elif (out / JOURNAL).exists() and not resume:
        raise OutputError(f"{out} holds a study that was interrupted; add --resume to go on with it, or --overwrite")
