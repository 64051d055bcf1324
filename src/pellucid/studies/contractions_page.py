"""The report of the study of contractions: the habit, where it is written, which parts carry it, and what groups share.

In: what the study found. Out: a page. Nothing is computed here but means and comparisons of what was measured.
"""

from pathlib import Path

import numpy as np

from pellucid.analysis.contexts import Contexts
from pellucid.report.page import Page
from pellucid.studies.contractions_groups import side_by_side
from pellucid.studies.neuron_page import context_view
from pellucid.studies.report_cells import HALVES, cells, made, top_cells
from pellucid.studies.result import Figure, StudyResult
from pellucid.viz.plots import plot
from pellucid.viz.showing import unshown

SPLIT = {
    "pronoun_alone": "the pronoun alone, metric",
    "contraction_alone": "the contraction alone, metric",
    "interaction": "both, beyond the sum",
    "pronoun_on_contractions": "the pronoun, logit of its contraction",
    "pronoun_on_verbs": "the pronoun, logit of its full verb",
}
SHOWN = 12


def contractions_page(result: StudyResult, contexts: Contexts | None = None) -> Page:
    """The report of `pellucid.studies.contractions.contractions`.

    Args:
        result: What the study found.
        contexts: Where in some texts the neurons found are most active.
    """
    with unshown():
        page = Page(f"Contractions: {Path(result.model).name or result.model}", lead=_lead(result))
        for part in (_habit, _written, _layers, _heads, _neurons, _split, _groups, made):
            part(page, result)
            if part is _neurons and contexts is not None:
                _texts(page, contexts)
    return page


def _texts(page: Page, contexts: Contexts) -> None:
    page.text(f"Where they are most active, in {contexts.tally.n:,} tokens of {contexts.n_documents:,} documents:")
    for label in contexts.labels:
        for place in contexts.of(label):
            page.figure(context_view(place, label), f"{label}: activation {place.value:.3g}.")


def _lead(result: StudyResult) -> str:
    habit = result.figures["habit"]
    if habit.value is None:
        return f"Nothing can be said of the habit: {str(habit.reason).rstrip('.')}."
    sure = "" if habit.low is None else f" [{habit.low:.2f}, {habit.high:.2f}]"
    told = f"A contraction before raises the contraction, against the full verb, by {habit.value:.2f}{sure} logits."
    head = result.figures["head"]
    if head.value is None:
        return f"{told} The study ends there: {head.reason}."
    neuron, counts = result.figures["neuron"], [result.figures[f"parts_{x}"].value for x in ("shared", "different")]
    best = "" if neuron.value is None else f", of the neurons {neuron.label} ({neuron.value:+.2f})"
    found = "" if counts[0] is None else f" Groups share {counts[0]:.0f} parts, and differ in {counts[1]:.0f}."
    return f"{told} Of the heads {head.label} brings back most ({head.value:+.2f}){best}.{found}"


def _habit(page: Page, result: StudyResult) -> None:
    page.section("Does the model have the habit?").text(
        '"We\'re helping our friend while they" → "\'re"; "We are helping our friend while they" → " are". '
        "The metric is "
        "the logit of the last pronoun's contraction minus that of its full verb; corrupted, the first verb "
        "is written out."
    )
    names = {"metric_clean": "contracted before", "metric_corrupted": "written out before", "habit": "difference"}
    names |= {name: name for name in result.figures if name.startswith("habit ")}
    rows = [[words, *cells(result.figures[name])] for name, words in names.items()]
    page.table(["", "logits", "95 % interval"], rows, "Means over frames; each group by itself below.")
    _reasons(page, [result.figures[name] for name in names])
    copied = result.figures["copied_minus_not"]
    if copied.value is not None:
        interval = "" if copied.low is None else f" [{copied.low:.2f}, {copied.high:.2f}]"
        page.text(
            "Where the contraction to come is the one that was seen the habit is stronger by "
            f"{copied.value:.2f}{interval} "
            f"logits: *{copied.label}*."
        )


def _written(page: Page, result: StudyResult) -> None:
    if "attribution_component" not in result.measurements:
        return
    page.section("Which parts write it?")
    for by, words in (("accumulated", "The stream, layer by layer"), ("component", "Each part")):
        means = result.measurements[f"attribution_{by}"].mean("prompt")
        page.figure(plot(means, title=words), f"{words}, along the metric's direction, at the end; scale frozen.")
    rows = top_cells(result.measurements["attribution_head"], SHOWN)
    page.table(["head", "writes, logits", "95 % interval"], rows, f"Heads onto the metric's direction. {HALVES}")


def _layers(page: Page, result: StudyResult) -> None:
    known = {site: words for site, words in SITES.items() if site in result.measurements}
    if not known:
        return
    page.section("Which layers carry it?").text(
        "Put in: what the contracted sentence has, into the one written out; or into the contracted one "
        "whose contraction "
        "is buried in noise. 0 is the run that is patched, 1 the contracted one."
    )
    for site, words in known.items():
        for name, how in (("", "from the sentence written out"), ("_from_noise", "from noise")):
            effect = result.measurements[f"{site}{name}"]
            gap = effect.dataset["clean"].values.mean() - effect.dataset["corrupted"].values.mean()
            shown = effect.effect() if gap == 0 else effect.normalised()
            page.figure(plot(shown.mean("prompt"), title=f"{words}, {how}"), f"{words} of each layer, {how}.")
        by_position = result.measurements[f"{site}_by_position"].normalised().mean("prompt")
        page.figure(plot(by_position, title=f"{words}, by position"), f"{words}, by layer and position.")


SITES = {"attn_out": "attention's output", "mlp_out": "MLP's output"}


def _heads(page: Page, result: StudyResult) -> None:
    if "heads_z" not in result.measurements:
        return
    rows = []
    for site, words in (("z", "all"), ("pattern", "pattern"), ("v", "values"), ("q", "queries"), ("k", "keys")):
        rows += [[words, *row] for row in top_cells(result.measurements[f"heads_{site}"].effect(), 4)]
    head, pattern, value = (result.figures[name] for name in ("head", "head_by_pattern", "head_by_v"))
    text = ""
    if None not in (head.value, pattern.value, value.value):
        kind = "what it finds there" if abs(value.value or 0) > abs(pattern.value or 0) else "where it looks"
        text = (
            f"Head **{head.label}** brings back {head.value:.2f} logits; its pattern alone {pattern.value:.2f}, "
            "its values "
            f"alone {value.value:.2f}: it matters by {kind}."
        )
    both = result.figures["heads_write_alike"]
    if both.value is not None:
        text += f" What the heads {both.label} write at the end has a cosine of {both.value:.2f}."
    page.section("Heads, taken apart").text(text)
    page.table(["what is patched", "head", "effect, logits", "95 % interval"], rows, f"Each alone. {HALVES}")


def _neurons(page: Page, result: StudyResult) -> None:
    effect = result.measurements.get("neurons")
    if effect is None:
        return
    page.section("Every neuron").table(
        ["neuron", "effect, logits", "95 % interval"],
        top_cells(effect.effect(), SHOWN),
        f"All {effect.values[0].size:,} neurons, each patched alone. {HALVES}",
    )
    written = result.record.settings.get("written")
    if isinstance(written, dict) and written:
        rows = [[name, *told] for name, told in written.items()]
        page.table(["neuron", "writes for", "writes against"], rows, "Tokens that they write for and against.")


def _split(page: Page, result: StudyResult) -> None:
    figures = {words: result.figures[name] for name, words in SPLIT.items()}
    page.section("Does it add up?").text(
        "Four prompts for each: with the pronoun or a noun at the end, contracted before or not. If what the "
        "pronoun and "
        "the contraction bring adds up (a bigram and a skip-trigram), what both bring beyond the sum is nothing."
    )
    page.table(
        ["", "logits", "95 % interval"], [[words, *cells(x)] for words, x in figures.items()], "Means over frames."
    )
    beyond = result.figures["interaction"]
    if beyond.low is not None and beyond.high is not None:
        adds = beyond.low <= 0 <= beyond.high
        page.text(
            "That it adds up is *not rejected*; the interval says how far from it it may be."
            if adds
            else "That it adds up is *rejected*: the interval leaves 0 out."
        )
    _reasons(page, list(figures.values()))


def _groups(page: Page, result: StudyResult) -> None:
    parts = result.measurements.get("parts")
    sides = None if parts is None else side_by_side(parts, delta=float(result.record.settings["delta"]))
    if parts is None or sides is None:
        return
    page.section("What do groups share?").text(
        f"Each group against all others, on one scale. *shared*: the 90 % interval of the difference lies within "
        f"±{sides.delta:g} logits, declared beforehand; *different*: the interval, corrected for there being "
        "many parts, "
        "leaves 0 out; else *undecided*, with the frames that would decide."
    )
    rows = []
    for at, part in enumerate(sides.parts):
        row = []
        for one in sides.compared:
            needed = float(one.n_to_decide[at])
            more = "" if not np.isfinite(needed) else f", n {needed:.0f}"
            row.append(f"{one.difference[at]:+.2f} {one.verdict[at]}{more}")
        rows.append([part, sides.of_part(part), *row])
    page.table(
        ["part", "verdict", *sides.groups], rows, "Difference from the other groups, in logits, and the verdict."
    )


def _reasons(page: Page, figures: list[Figure]) -> None:
    for reason in dict.fromkeys(figure.reason for figure in figures if figure.value is None):
        page.text(f"Missing: {str(reason).rstrip('.')}.")
