"""Studies whose parts are trainings: what was interrupted is gone on with, and what came out is written and told."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.options import print_json

if TYPE_CHECKING:
    from pellucid.report.page import Page
    from pellucid.studies.result import StudyResult

JOURNAL = "journal"

Where = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write the report and the numbers.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a study that was interrupted.")]
Count = Annotated[
    int | None, typer.Option("--processes", min=1, metavar="N", help="Runs at a time.  [default: one a core]")
]


def by_trainings(
    out: Path,
    identity: Mapping[str, Any],
    jobs_of: Callable[[], Sequence[Any]],
    find: Callable[..., "StudyResult"],
    page: Callable[["StudyResult"], "Page"],
    tell: Callable[["StudyResult"], None],
    *,
    resume: bool,
    overwrite: bool,
    processes: int | None,
    as_json: bool,
    together: Callable[[Any], Any] | None = None,
) -> None:
    """Runs a study, writes it and tells what it found.

    Args:
        out: The folder.
        identity: Which study it is, with all that its results depend on.
        jobs_of: Its trainings.
        find: The study, given ``executor journal advance``.
        page: Its report.
        tell: Prints it.
        resume: Go on with one that was interrupted.
        overwrite: Replace what lies there.
        processes: Trainings at a time; None: one a core.
        as_json: Print JSON instead.
        together: What runs a training in every one of several processes that were launched; None: they are refused.
    """
    from pellucid.base.progress import progress
    from pellucid.distributed.journal import Journal
    from pellucid.distributed.processes import Processes
    from pellucid.distributed.together import Together, launched

    executor: Any = Processes(processes)
    if launched():
        if together is None:
            raise typer.BadParameter("this study has processes of its own; start it without accelerate launch")
        executor = Together()
        if not executor.is_main:
            executor.map(together, jobs_of())
            return
    check_folder(out, resume=resume, overwrite=overwrite)
    journal = Journal.open(out / JOURNAL, identity=identity)
    jobs = journal.jobs or jobs_of()
    done = sum(journal.jobs is not None and journal.holds(job) for job in jobs)
    with progress(len(jobs), "trainings", done=done) as advance:
        found = find(executor=executor, journal=journal, advance=advance)
    path = found.save(out, page=page(found), overwrite=overwrite)
    shutil.rmtree(out / JOURNAL, ignore_errors=True)
    if as_json:
        print_json(found.to_dict(page=True))
        return
    tell(found)
    typer.echo(f"Written to {path}")
    typer.echo(f"Report: {path.with_name('report.html')}")


def check_folder(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Whether a study may write to a folder."""
    from pellucid.base.errors import OutputError
    from pellucid.studies.result import check_vacant

    if resume and overwrite:
        raise OutputError("one of --resume and --overwrite must be chosen, got both")
    check_vacant(out, overwrite=overwrite)
    if overwrite:
        shutil.rmtree(out / JOURNAL, ignore_errors=True)
    elif (out / JOURNAL).exists() and not resume:
        raise OutputError(f"{out} holds a study that was interrupted; add --resume to go on with it, or --overwrite")
