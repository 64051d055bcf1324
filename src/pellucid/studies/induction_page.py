"""The report of the study of repeated tokens: the story that a stranger follows from the question to the evidence.

In: what the study found. Out: a page. Nothing is computed here but means of what was measured.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pellucid.analysis.attention import HALVES, RESTING
from pellucid.analysis.heads import ROLES, Role
from pellucid.measurement import Measurement
from pellucid.report.page import Page
from pellucid.studies.induction import at_other_periods, objections
from pellucid.studies.induction_heads import CLEAR, CUT, HEADS
from pellucid.studies.induction_page_circuit import mlps, reasons, weights
from pellucid.studies.published import FIGURES
from pellucid.studies.reference import NAME as REFERENCE
from pellucid.studies.report_cells import made
from pellucid.studies.result import Figure, StudyResult
from pellucid.viz.attention import attention_patterns
from pellucid.viz.plots import plot
from pellucid.viz.showing import unshown
from pellucid.viz.table import sortable_table

WORDS = {
    "logprob": "log-probability of the right token",
    "accuracy": "accuracy",
    "loss": "loss",
    "induction_head": "induction",
    "previous_token_head": "previous token",
    "duplicate_token_head": "duplicate token",
    "prefix_matching_head": "prefix matching",
    CUT: "induction, previous-token heads silenced",
}


def induction_page(result: StudyResult) -> Page:
    """The report of `pellucid.studies.induction.induction`.

    Args:
        result: What the study found.
    """
    with unshown():
        page = Page(f"Repeated tokens: {Path(result.model).name or result.model}", lead=_lead(result))
        for part in (_can_it, _cliff, _which_heads, _what_they_see, mlps, weights, _second_model, _doubts, _made):
            part(page, result)
    return page


def _lead(result: StudyResult) -> str:
    figures = result.figures
    first, second = (figures[f"accuracy_{half}_half"].value for half in ("first", "second"))
    can = f"It predicts {_share(first)} of random tokens the first time, and {_share(second)} when they come again."
    head, against = figures["induction_head"], objections(result)
    if head.value is None:
        return f"{can} No head was found that could do it: {against[0]}."
    if against:
        return f"{can} No induction head was found; the best candidate, {head.label}, is none: {against[0]}."
    return (
        f"{can} Head **{head.label}** is an induction head: it attends to what followed the same token before with "
        f"{head.value:.2f} of its attention, and with {_number(figures['induction_head_control'])} "
        f"where nothing repeats."
    )


def _can_it(page: Page, result: StudyResult) -> None:
    settings = result.record.settings
    front = "BOS, then " if settings["bos"] else ""
    left_out = (
        "The first token of the second half, which nothing tells, is counted all the same, as the article did."
        if settings["rule"] == "article"
        else "Only the first token of the second half is left out, since nothing tells which one it will be."
    )
    page.section("Can the model do it?").text(
        f"{_prompts(settings['batch'])}: {front}{settings['seq_len']} random tokens, and the same "
        f"{settings['seq_len']} "
        "again. In the first half nothing can be predicted. In the second half it can, by whoever finds the token in "
        f"the first half and looks what followed it. {left_out}"
    )
    names = [f"{name}_{half}_half" for name in ("logprob", "accuracy", "loss") for half in ("first", "second")]
    rows = []
    for name in names:
        figure, (what, half) = result.figures[name], name.rsplit("_half", 1)[0].rsplit("_", 1)
        rows.append([f"{WORDS[what]}, {half} half", *_cells(figure), figure.unit, figure.published])
    _table(
        page,
        result,
        ["", "mean", "95 % interval", "unit"],
        rows,
        names=names,
        caption="Means over prompts, with Student's t interval, which may leave 0…1. If the second "
        "half is no better than "
        "the first, the model does not do the task here, and nothing below is about induction.",
    )


def _cliff(page: Page, result: StudyResult) -> None:
    loss, seq_len = result.measurements["loss"].mean("prompt"), result.record.settings["seq_len"]
    figure = plot(loss, title="Loss by position")
    figure.add_vline(x=int(result.record.settings["bos"]) + seq_len, line_dash="dot")
    page.section("Where is the cliff?").figure(
        figure,
        "Loss of each token, by the position where it stands. The dotted line is the first token of the second half. "
        "Induction shows as a cliff right after it: from there on every token has been seen before.",
    )


def _which_heads(page: Page, result: StudyResult) -> None:
    settings = result.record.settings
    diagonal = (
        "" if settings["rule"] is None else " By this rule the induction score is the mean over the *whole* diagonal."
    )
    chosen = (
        "The best of many heads flatters itself on the prompts that it was chosen on, so each was "
        "chosen on one half of "
        "the prompts, and its numbers come from the other half."
        if settings["batch"] > 1
        else "There is one prompt alone, so heads are chosen on the prompt that their numbers come from."
    )
    page.section("Which heads, against which control?").text(
        "A score is the attention that a head pays, on the mean over the second half, to the place "
        "where its role lies: "
        "for *induction* the token after the same token's first copy, for *duplicate token* the first copy itself, for "
        f"*previous token* one back. *Prefix matching* is induction over four copies.{diagonal} Beside each stands its "
        "control: the same stripe on tokens that do not repeat, or, for roles that need no repetition, uniform "
        f"attention. {chosen}"
    )
    names = [*HEADS, "prefix_matching_head", CUT]
    rows = []
    for name in names:
        figure, control = result.figures[name], result.figures.get(f"{name}_control")
        beside = None if control is None or control.value is None else f"{control.value:.3f}"
        rows.append([WORDS[name], figure.label, *_cells(figure), beside, figure.published])
    silenced = result.record.settings["silenced"] or "none"
    caption = f"The best head of each role; silenced: {silenced}. A score counts only as far as it exceeds its control."
    _table(page, result, ["role", "head", "score", "95 % interval", "control"], rows, names=names, caption=caption)
    score, control = (result.measurements[name] for name in ("head_roles", "head_roles_control"))
    if not score.values.size or not np.isfinite(score.values).all():
        return
    difference = (score - control).sel(role="induction").mean("prompt")
    page.figure(
        plot(difference, title="Induction score − control", zmin=-1, zmax=1),
        "Induction score of every head, its control taken off: blue heads attend to what followed "
        "the token before, and "
        "do not where nothing repeats. The mouse tells the number.",
    )
    means, beside = score.mean("prompt"), control.mean("prompt")
    columns = {}
    for role in (role for role in ROLES if role.name in means.dataset["role"].values):
        columns[_column(role, beside)] = means.sel(role=role.name)
        if role.repeated:
            columns[f"{role.name}, control"] = beside.sel(role=role.name)
    page.figure(
        sortable_table(columns, rows=_names(means), rows_name="head", sort="induction"),
        "Every head in every role; uniform attention stands in the head of the column of a role that needs no "
        "repetition. A click on a column's head sorts by it.",
    )


def _column(role: Role, control: Measurement) -> str:
    if role.repeated:
        return role.name
    return f"{role.name} (uniform {control.sel(role=role.name).values.flat[0]:.3f})"


def _what_they_see(page: Page, result: StudyResult) -> None:
    found = {name: result.measurements.get(f"pattern_{name}") for name in ("induction_head", "previous_token_head")}
    found = {name: pattern for name, pattern in found.items() if pattern is not None}
    if not found:
        return
    page.section("What do they look at?")
    for name, pattern in found.items():
        head, layer = int(str(result.figures[name].label).split(".")[1]), int(pattern.dataset["layer"].item())
        order = [head, *(h for h in range(pattern.shape[0]) if h != head)]
        tokens = [str(token) for token in pattern.dataset["token"].values]
        view = attention_patterns(tokens, pattern.values[order], [f"{layer}.{h}" for h in order])
        stripe = (
            "An induction head draws a stripe in the lower half, one column right of where the same token stood first."
            if name == "induction_head"
            else "A previous-token head draws a stripe right below the diagonal."
        )
        page.figure(
            view,
            f"Attention of layer {layer} on one short prompt, the head with the best {WORDS[name]} "
            f"score, {layer}.{head}, "
            f"first. Rows attend to columns. {stripe} The mouse or the arrow keys tell each weight.",
        )


def _second_model(page: Page, result: StudyResult) -> None:
    scores, controls = (result.measurements.get(f"second_head_roles{part}") for part in ("", "_control"))
    if scores is None or controls is None:
        return
    name = str(result.record.settings["second"])
    rows = []
    for role in HEADS:
        row: list[object] = [WORDS[role]]
        for prefix in ("", "second_"):
            figure, control = (result.figures[f"{prefix}{role}{part}"] for part in ("", "_control"))
            row += [figure.label, _number(figure), _number(control)]
        rows.append(row)
    page.section("The same in a second model?").table(
        ["role", "head here", "score", "control", "head there", "score there", "control there"],
        rows,
        f"The best heads of this model and of {name}, on the same tokens.",
    )
    difference = (scores - controls).sel(role="induction").mean("prompt")
    page.figure(
        plot(difference, title=f"Induction score − control, {Path(name).name}", zmin=-1, zmax=1),
        "Induction score of every head of the second model, its control taken off.",
    )


def _doubts(page: Page, result: StudyResult) -> None:
    page.section("What would fool us?")
    head, against = result.figures["induction_head"].label, objections(result)
    if against:
        page.note(
            f"Head {head} is **not** called an induction head: {'; '.join(against)}."
            if head
            else f"No head is called an induction head: {against[0]}.",
            kind="warning",
        )
    page.text(
        "**A head that looks back by position alone.** A model that only ever saw one period learns to look that many "
        "tokens back, whatever stands there; its stripe is as bright as an induction head's. So the "
        "stripe is also taken "
        f"on tokens that do not repeat, at other periods, and where the repetition begins later; and "
        f"the previous-token "
        f"heads are silenced. Each difference must be {CLEAR} or more, and the silenced stripe less than half."
    )
    by_period = at_other_periods(result)
    if by_period:
        page.table(
            ["elsewhere", "score − control"],
            [[name, f"{value:.3f}"] for name, value in by_period.items()],
            f"Head {head} elsewhere. An induction head stays high at each.",
        )
    rest = result.measurements.get("rest_on_bos")
    if rest is None:
        page.note(
            "BOS was left out, as asked. Heads of this model rest there when nothing matches; without it they rest "
            "elsewhere, and scores are harder to compare."
            if result.record.settings.get("bos_left_out")
            else "This model has no BOS before a text, so none was added, and no head can rest there.",
        )
        return
    means = rest.mean("prompt")
    if not means.values.size:
        return
    shares = [(means.sel(group=half).values >= RESTING).mean() for half in HALVES]
    page.text(
        "**Heads that rest on BOS.** A head with nothing to do attends to the first token. Averaged over such heads or "
        f"positions, patterns look all alike. Here {shares[0]:.0%} of the heads rest there in the first half and "
        f"{shares[1]:.0%} in the second, with {RESTING:.0%} of their attention or more."
    )
    if min(shares) > RESTING:
        page.note(
            "Most heads rest on BOS in both halves: what they do when something matches is not in these patterns, and "
            "means over them are alike for that reason alone.",
            kind="warning",
        )
    columns = {half: means.sel(group=half) for half in HALVES}
    page.figure(
        sortable_table(columns, rows=_names(means), rows_name="head", sort=HALVES[0]),
        "Attention to BOS from each half. A head that rests in the first half and leaves in the second may be one that "
        "waits for a repetition.",
    )


def _made(page: Page, result: StudyResult) -> None:
    compared = result.figures.get(REFERENCE)
    if compared is not None:
        page.note(
            f"Layer 0's q·k differ from the reference's by {compared.value:.2g} at most, over "
            f"{compared.label}; 0.001 is "
            "agreement. Deeper layers are not compared: the reference has GELU in its exact form."
        )
    made(page, result)


def _table(
    page: Page,
    result: StudyResult,
    columns: Sequence[str],
    rows: Sequence[list[object]],
    *,
    names: Sequence[str],
    caption: str,
) -> None:
    """A table of figures, whose last cell is what was published: shown if anything was, with where and how."""
    known = {name: FIGURES["induction"][name] for name in names if result.figures[name].published is not None}
    if known:
        page.table([*columns, "published"], rows, caption)
        said = dict.fromkeys(f"{published.source}: {published.said}" for published in known.values())
        page.note("Published. " + " ".join(f"{line}." for line in said))
    else:
        page.table(columns, [row[:-1] for row in rows], caption)
    reasons(page, result, names)


def _names(measured: Measurement) -> list[str]:
    n_layers, n_heads = (measured.shape[measured.dims.index(dim)] for dim in ("layer", "head"))
    return [f"{layer}.{head}" for layer in range(n_layers) for head in range(n_heads)]


def _cells(figure: Figure) -> list[object]:
    """Mean and interval, with three digits behind the point."""
    value = None if figure.value is None else f"{figure.value:.3f}"
    interval = None if figure.low is None or figure.high is None else f"{figure.low:.3f} … {figure.high:.3f}"
    return [value, interval]


def _prompts(n: int) -> str:
    return "One prompt" if n == 1 else f"{n} prompts, each of them"


def _number(figure: Figure) -> str:
    return "nothing" if figure.value is None else f"{figure.value:.2f}"


def _share(value: float | None) -> str:
    return "an unknown share" if value is None else f"{value:.1%}" if 0 < value < 0.01 else f"{value:.0%}"
