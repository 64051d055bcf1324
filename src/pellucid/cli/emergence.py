"""`pellucid study emergence`: trains many small models, and tells in how many induction heads form."""

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli.options import AsJson, Debug, Overwrite
from pellucid.cli.tables import COLUMNS, interval, number, print_table
from pellucid.cli.trained import Count, Resume, Where, by_trainings

if TYPE_CHECKING:
    from pellucid.studies.result import StudyResult

TOLD = {
    "share_with_induction": "induction head forms",
    "share_with_previous_token": "previous-token head forms",
    "share_with_induction_four_heads": "induction head, 4 heads a layer",
    "share_with_previous_token_four_heads": "previous token, 4 heads a layer",
    "phase_step_median": "phase change, step (median)",
    "phase_width_median": "its width, steps (median)",
    "fixed_one_layer_accuracy": "one fixed period: accuracy",
    "fixed_one_layer_accuracy_elsewhere": "· at other periods",
    "random_period_accuracy_elsewhere": "random periods: at others",
    "score_first_third": "previous token, first third",
    "score_last_third": "· last third",
    "share_that_break_off": "diagonals that break off",
    "break_off_position": "· at position",
    "break_off_position_random_offset": "· with random offsets",
    "break_off_position_short_periods": "· with shorter periods",
    "effective_rank_position": "effective rank of positions",
    "effective_rank_position_decay_strong": "· with strong weight decay",
    "encoder_decoder_accuracy": "encoder–decoder: accuracy",
    "encoder_decoder_accuracy_without_decoder_attention": "· without decoder's attention",
    "encoder_decoder_blanks_accuracy": "with spatial noise: accuracy",
    "encoder_decoder_blanks_accuracy_without_decoder_attention": "· without decoder's attention",
}
"""The figures that the terminal shows, in its words."""
Quick = Annotated[bool, typer.Option("--quick", help="Fewer and shorter runs, for a first look.")]


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
    from functools import partial

    from pellucid.studies.emergence import emergence as find
    from pellucid.studies.emergence import jobs_of
    from pellucid.studies.emergence_arms import Sizes
    from pellucid.studies.emergence_page import emergence_page

    by_trainings(
        out,
        {"study": "emergence", "quick": quick},
        lambda: jobs_of(Sizes(quick=quick)),
        partial(find, quick=quick),
        emergence_page,
        print_emergence,
        resume=resume,
        overwrite=overwrite,
        processes=processes,
        as_json=as_json,
    )


def print_emergence(found: "StudyResult") -> None:
    """The main figures and the verdicts."""
    from pellucid.studies.emergence_page import needs, verdicts

    typer.echo(f"{found.model}, {found.record.settings['steps']} steps each")
    rows = []
    for name, words in TOLD.items():
        figure = found.figures[name]
        ends = interval(figure.low, figure.high, figure.unit) or figure.reason or ""
        rows.append([words, number(figure.value, figure.unit), ends])
    print_table(["", "", "95 % interval"], rows)
    typer.echo()
    answers = [f"{question} {answer}" for question, answer in verdicts(found).items()]
    answers += [f"Encoder–decoder: {answer}" for answer in needs(found)]
    for answer in answers:
        typer.echo(textwrap.fill(answer, COLUMNS, subsequent_indent="  "))
