"""The report of the study of repeated tokens: the story that a stranger follows from the question to the evidence.

In: what the study found. Out: a page. Nothing is computed here but means of what was measured.
"""

from collections.abc import Sequence

import numpy as np

from pellucid.analysis.attention import HALVES, RESTING
from pellucid.analysis.heads import ROLES
from pellucid.measurement import Measurement
from pellucid.report.page import Page
from pellucid.studies.induction import CUT, HEADS, SHARES, objections, other_periods
from pellucid.studies.reference import NAME
from pellucid.studies.result import Figure, StudyResult
from pellucid.viz.attention import attention_patterns
from pellucid.viz.plots import plot
from pellucid.viz.showing import unshown
from pellucid.viz.table import sortable_table

NAMES = {
    "logprob": "log-probability of the right token",
    "loss": "loss",
    "accuracy": "accuracy",
    "induction_head": "induction head",
    "previous_token_head": "previous-token head",
    "duplicate_token_head": "duplicate-token head",
    "prefix_matching_head": "best prefix matching",
    CUT: "induction head, previous-token head silenced",
}
SHOWN_PAIRS = 10
"""Rows of the table of composition."""


def induction_page(result: StudyResult) -> Page:
    """The report of `pellucid.studies.induction.induction`.

    Args:
        result: What the study found.
    """
    with unshown():
        page = Page(f"Repeated tokens: {result.model}", lead=_lead(result))
        for part in (_can_it, _cliff, _which_heads, _what_they_see, _mlps, _weights, _second_model, _doubts, _made):
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
    page.section("Can the model do it?").text(
        f"Each of {settings['batch']} prompts is {front}{settings['seq_len']} random tokens, and the same "
        f"{settings['seq_len']} again. Nothing in the first half can be predicted. In the second half everything can, "
        "by whoever finds the token in the first half and looks what followed it; only the half's first token is left "
        "out, since nothing tells which one it will be."
    )
    rows = []
    for name in ("logprob", "accuracy", "loss"):
        for half in ("first", "second"):
            figure = result.figures[f"{name}_{half}_half"]
            rows.append([f"{NAMES[name]}, {half} half", *_cells(figure)])
    page.table(
        ["", "mean", "95 % interval", "unit", "published"],
        rows,
        "Means over prompts. If the second half is no better than the first, the model cannot do the task, and nothing "
        "below is about induction.",
    )


def _cliff(page: Page, result: StudyResult) -> None:
    loss, seq_len = result.measurements["loss"].mean("prompt"), result.record.settings["seq_len"]
    figure = plot(loss, title="Loss by position")
    figure.add_vline(x=int(result.record.settings["bos"]) + seq_len, line_dash="dot")
    page.section("Where is the cliff?").figure(
        figure,
        "Loss of each token, by the position where it stands, with the 95 % interval over prompts. The dotted line is "
        "the first token of the second half. Induction shows as a cliff right after it: from there on every token has "
        "been seen before.",
    )


def _which_heads(page: Page, result: StudyResult) -> None:
    page.section("Which heads, against which control?").text(
        "A score is the attention that a head pays, on the mean, to the place where its role lies: "
        "an *induction* head to "
        "the token after the same token's first copy, a *previous-token* head one back, a "
        "*duplicate-token* head to the "
        "first copy itself. Beside each stands its control: the same stripe on tokens that do not "
        "repeat, or, for roles "
        "that need no repetition, uniform attention. The best of many heads flatters itself on the prompts that it was "
        "chosen on, so each was chosen on one half of the prompts, and its numbers come from the other half."
    )
    rows = []
    for name in (*HEADS, "prefix_matching_head", CUT):
        figure, control = result.figures[name], result.figures.get(f"{name}_control")
        value, interval, _, published = _cells(figure)
        rows.append([NAMES[name], figure.label, value, interval, None if control is None else control.value, published])
    page.table(
        ["role", "head", "score", "95 % interval", "control", "published"],
        rows,
        "The head that plays each role best. A score counts only as far as it exceeds its control.",
    )
    _reasons(page, result, (*HEADS, "prefix_matching_head", CUT))
    score, control = (result.measurements[name].mean("prompt") for name in ("head_roles", "head_roles_control"))
    if not score.values.size:
        return
    page.figure(
        plot(score.sel(role="induction"), title="Induction score"),
        "Induction score of every head. Under the mouse: its interval.",
    )
    columns = {}
    for role in ROLES:
        if role.name in score.dataset["role"].values:
            columns[role.name] = score.sel(role=role.name)
            if role.repeated:
                columns[f"{role.name}, control"] = control.sel(role=role.name)
    page.figure(
        sortable_table(columns, rows=_names(score), rows_name="head", sort="induction"),
        "Every head and every role, with 95 % intervals. A click on a column's head sorts by it.",
    )


def _what_they_see(page: Page, result: StudyResult) -> None:
    found = {n: result.measurements.get(f"pattern_{n}") for n in ("induction_head", "previous_token_head")}
    found = {name: pattern for name, pattern in found.items() if pattern is not None}
    if not found:
        return
    page.section("What do they look at?")
    for name, pattern in found.items():
        head = int(str(result.figures[name].label).split(".")[1])
        layer = int(pattern.dataset["layer"].item())
        order = [head, *(h for h in range(pattern.shape[0]) if h != head)]
        view = attention_patterns(
            [str(token) for token in pattern.dataset["token"].values],
            pattern.values[order],
            [f"{layer}.{h}" for h in order],
        )
        seen = (
            "an induction head draws a stripe in the lower half, one position above where the same token stood"
            if name == "induction_head"
            else "a previous-token head draws a stripe right below the diagonal"
        )
        page.figure(
            view,
            f"Attention of layer {layer} on one short prompt, the {NAMES[name]} {layer}.{head} first. Rows attend to "
            f"columns; {seen}. The mouse or the arrow keys tell each weight; a click on a small "
            f"picture makes it large.",
        )


def _mlps(page: Page, result: StudyResult) -> None:
    page.section("Does an MLP matter?")
    figure, measured = result.figures["mlp_shift_max_delta_loss"], result.measurements.get("shifted_mlp")
    if measured is None:
        page.text(f"This was not measured: {figure.reason}.")
        return
    page.text(
        "In the second half each MLP sees a token that it saw before, one period earlier. If all it does there is what "
        "it did then, its output can be replaced by the old one at no cost. So each MLP's output was overwritten, one "
        "layer and position at a time, by its output one period before; what the loss gains is what the MLP had added."
    )
    page.figure(
        plot(measured.mean("prompt"), title="Δ loss"),
        "Change of the loss by layer and position when that MLP's output there is the one from a period before. Near "
        "zero everywhere: no MLP matters for induction."
        + (
            " The first column is the end of the first copy, overwritten by what the MLP gave for "
            "BOS, which stands for "
            "nothing that came before: it is the article's first token, and no sign of induction."
            if result.record.settings["rule"] == "article"
            else ""
        ),
    )
    together, summed = (result.measurements[f"shifted_mlp_{part}"].mean("prompt") for part in ("layer", "summed"))
    rows: list[list[object]] = [
        [f"layer {label}", value, alone]
        for (label, value), alone in zip(together.items(), summed.values.tolist(), strict=True)
    ]
    rows.append(["all layers", result.measurements["shifted_mlp_whole"].mean("prompt").item(), None])
    page.table(
        ["", "all positions at once", "sum of one at a time"],
        rows,
        f"Δ loss in nats, mean over {measured.shape[0]} prompts, when the whole second half is overwritten.",
    )


def _weights(page: Page, result: StudyResult) -> None:
    page.section("Is the circuit in the weights?").text(
        "A previous-token head writes into each position what stood before it; an induction head "
        "looks for its own token "
        "among what was written. Put together from the weights alone, this is a matrix between all tokens and all "
        "tokens: how much each token, as a query, likes each token, as what was copied. If the circuit is there, each "
        "token likes itself best."
    )
    matches = result.measurements.get("two_head_circuit")
    names = ("two_head_circuit_top1_key_per_query", "two_head_circuit_top1_query_per_key")
    if matches is None:
        _reasons(page, result, names)
    else:
        rows = _circuit_rows(result, matches)
        page.table(
            ["", "W_E alone", "with the first MLP", "by chance", "published"],
            rows,
            f"Of all tokens, the share that finds itself, for the heads "
            f"{result.figures[names[0]].label}. Which direction "
            "the published number is, is not said, so it stands beside both.",
        )
        _reasons(page, result, names)
        _near_misses(page, result)
    pairs = result.measurements.get("composition")
    if pairs is not None and pairs.values.size:
        best = pairs.top(SHOWN_PAIRS)
        page.table(
            ["heads and input", "composition"],
            [[label, value] for label, value in best.items()],
            "The pairs of heads of which the later one reads most of what the earlier one writes, through its queries "
            "(q), keys (k) or values (v), beyond what random weights would have. An induction circuit is a k.",
        )


def _circuit_rows(result: StudyResult, matches: Measurement) -> list[list[object]]:
    extended = result.measurements.get("two_head_circuit_extended")
    rows: list[list[object]] = []
    for column in (str(name) for name in matches.dataset["group"].values):
        name = f"two_head_circuit_{column.replace(' ', '_').replace('top-', 'top')}"
        figure = result.figures.get(name)
        chance = matches.dataset["chance"].sel(group=column).item()
        beside = None if extended is None else extended.sel(group=column).item()
        rows.append([column, matches.sel(group=column).item(), beside, chance, figure and figure.published])
    return rows


def _near_misses(page: Page, result: StudyResult) -> None:
    misses = result.measurements["two_head_circuit_near_misses"].dataset.squeeze()
    said = []
    for direction in (str(name) for name in misses["group"].values):
        of = misses.sel(group=direction)
        if np.isfinite(of["value"].item()):
            said.append(
                f"{direction}: {of['missed'].item():.0f} tokens miss; for {of['value'].item():.0%} of "
                f"them the best is one "
                f"of their ten nearest neighbours (by chance {of['chance'].item():.1%})"
            )
    if said:
        page.text("“Or a token very similar”? " + "; ".join(said) + ".")


def _second_model(page: Page, result: StudyResult) -> None:
    if "second_induction_head" not in result.figures:
        return
    name = result.record.settings["second"] or "the second model"
    rows = []
    for role in HEADS:
        mine, other = result.figures[role], result.figures[f"second_{role}"]
        rows.append([NAMES[role], mine.label, mine.value, other.label, other.value])
    page.section("The same in a second model?").table(
        ["role", f"head of {result.model}", "score", f"head of {name}", "score "],
        rows,
        f"The same tokens in {name}.",
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
        "on tokens that do not repeat, and at other periods than the one above."
    )
    by_period = other_periods(result, head)
    if by_period:
        page.table(
            ["period", "score − control"],
            [[name, value] for name, value in by_period.items()],
            f"Head {head} at other periods ({', '.join(SHARES)}). An induction head stays high at each.",
        )
    rest = result.measurements.get("rest_on_bos")
    if rest is None:
        page.note(
            "These prompts do not begin with BOS. Heads of a model that was trained with BOS rest there when nothing "
            "matches; without it they rest elsewhere, and scores are harder to compare.",
        )
        return
    means = rest.mean("prompt")
    resting = (means.values >= RESTING).mean() if means.values.size else 0.0
    page.text(
        "**Heads that rest on BOS.** A head with nothing to do attends to the first token. Averaged over such heads or "
        f"positions, patterns look all alike. Here {resting:.0%} of the heads, by half, rest there "
        f"with {RESTING:.0%} of "
        "their attention or more."
    )
    if means.values.size:
        columns = {half: means.sel(group=half) for half in HALVES}
        found = sortable_table(columns, rows=_names(means), rows_name="head", sort=HALVES[0])
        page.figure(
            found,
            "Attention to BOS from each half. A head that rests in the first half and leaves in the second is one that "
            "waits for a repetition.",
        )


def _made(page: Page, result: StudyResult) -> None:
    record = result.record
    processing = ", ".join(record.processing) or "none"
    settings = ", ".join(f"{name} {value}" for name, value in record.settings.items() if value is not None)
    compared = result.figures.get(NAME)
    if compared is not None:
        page.note(
            f"Layer 0's q·k differ from the reference's by {compared.value:.2g} at most ({compared.reason}). "
            "Deeper layers are not compared: the reference has GELU in its exact form."
        )
    page.section("How was this made?").text(
        f"Pellucid {record.version}; model {record.model}, weights {str(record.weights_hash)[:16]}…, processing: "
        f"{processing}; {record.dtype} on {record.device}; seed {record.seed}; {settings}. All numbers lie beside this "
        "page: `result.json`, and the folder `measurements`."
    )


def _reasons(page: Page, result: StudyResult, names: Sequence[str]) -> None:
    for reason in dict.fromkeys(result.figures[name].reason for name in names):
        if reason is not None:
            page.note(f"{reason[0].upper()}{reason[1:]}.")


def _names(measured: Measurement) -> list[str]:
    n_layers, n_heads = (measured.shape[measured.dims.index(dim)] for dim in ("layer", "head"))
    return [f"{layer}.{head}" for layer in range(n_layers) for head in range(n_heads)]


def _cells(figure: Figure) -> list[object]:
    interval = None if figure.low is None or figure.high is None else f"{figure.low:.4g} … {figure.high:.4g}"
    return [figure.value, interval, figure.unit, figure.published]


def _number(figure: Figure) -> str:
    return "nothing" if figure.value is None else f"{figure.value:.2f}"


def _share(value: float | None) -> str:
    return "an unknown share" if value is None else f"{value:.0%}"
