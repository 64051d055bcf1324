"""The report of the study of contractions: the habit, what writes it, and which layers, heads and neurons carry it.

In: what the study found. Out: a page. Nothing is computed here but means of what was measured; every verdict is read.
"""

from pathlib import Path

from pellucid.analysis.contexts import Contexts
from pellucid.measurement import Measurement
from pellucid.report.page import Page
from pellucid.report.prose import code
from pellucid.studies.contractions_frames import chosen, halves
from pellucid.studies.contractions_page_groups import groups
from pellucid.studies.contractions_parts import held_out
from pellucid.studies.contractions_pictures import bars, fractions, group_map, value
from pellucid.studies.neuron_page import context_view
from pellucid.studies.report_cells import HALVES, cells, made, number
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
SITES = {"attn_out": "attention's output", "mlp_out": "MLP's output"}
PATCHED = {"z": "all", "pattern": "pattern", "v": "values", "q": "queries", "k": "keys"}
HOW = {"": "from the sentence written out", "_from_noise": "from noise"}
SHOWN, FEW = 12, 4


def contractions_page(result: StudyResult, contexts: Contexts | None = None) -> Page:
    """The report of `pellucid.studies.contractions.contractions`.

    Args:
        result: What the study found.
        contexts: Where in some texts the neurons found are most active.
    """
    with unshown():
        page = Page(f"Contractions: {Path(result.model).name or result.model}", lead=_lead(result))
        if result.figures["habit"].value is not None:
            for part in (_habit, _written, _layers, _heads, _neurons):
                part(page, result)
            _texts(page, result, contexts)
            _split(page, result)
            groups(page, result)
        made(page, result)
    return page


def _lead(result: StudyResult) -> str:
    habit = result.figures["habit"]
    if habit.value is None:
        return f"Nothing can be said of the habit: {str(habit.reason).rstrip('.')}."
    told = f"A contraction before raises the contraction, against the full verb, by {value(habit)} logits."
    head, neuron = result.figures["head"], result.figures["neuron"]
    if "attn_out" not in result.measurements:
        return f"{told} The study ends there: {str(head.reason).rstrip('.')}."
    if habit.label == "not shown":
        told += f" That is a habit *not shown*: {habit.reason}."
    elif habit.high is not None and habit.high < float(result.record.settings["delta"]):
        told += f" That is less than the {result.record.settings['delta']:g} that were declared to matter."
    sure = [
        f"{kind} {x.label} brings back {x.value:+.2f}" for kind, x in (("head", head), ("neuron", neuron)) if _sure(x)
    ]
    best = f" Most matters: {', '.join(sure)}." if sure else " No single head or neuron matters for sure."
    counts = [result.figures[f"parts_{x}"].value for x in ("shared", "different", "undecided")]
    if None in counts:
        return told + best
    shared, different, undecided = (f"{count:.0f}" for count in counts)
    return f"{told}{best} Groups share {shared} parts, differ in {different}, and {undecided} are undecided."


def _sure(figure: Figure) -> bool:
    """Whether its interval leaves 0 out; nothing else is a headline."""
    return figure.low is not None and figure.high is not None and not figure.low <= 0 <= figure.high


def _habit(page: Page, result: StudyResult) -> None:
    page.section("Does the model have the habit?").text(
        '"We\'re helping our friend while they" → "\'re"; "We are helping our friend while they" → " are". The metric '
        "is the logit of the last pronoun's contraction minus that of its full verb; corrupted, the first verb is "
        "written out."
    )
    names = {"metric_clean": "contracted before", "metric_corrupted": "written out before", "habit": "difference"}
    names |= {name: name for name in result.figures if name.startswith("habit ")}
    rows = [[words, *cells(result.figures[name])] for name, words in names.items()]
    page.table(["", "logits", "95 % interval"], rows, "Means over frames; each group by itself below.")
    exploratory = result.record.settings.get("exploratory")
    if exploratory and "attn_out" in result.measurements:
        page.note(f"All that follows is exploratory: {str(exploratory).rstrip('.')}.", kind="warning")
    copied = result.figures["copied_minus_not"]
    words = "Over the same pronouns, where the contraction to come is the one that was seen the habit is stronger by "
    page.text(f"{words}{verdict(copied)}" if copied.value is not None else f"Whether it is copied: {_missing(copied)}")


def verdict(figure: Figure) -> str:
    """A number with its interval and its verdict, as a sentence ends."""
    needed = f"; {figure.reason}" if figure.label == "undecided" else ""
    return f"{value(figure)} logits: *{figure.label}*{needed}."


def _missing(figure: Figure) -> str:
    return f"missing, {str(figure.reason).rstrip('.')}."


def _written(page: Page, result: StudyResult) -> None:
    page.section("Which parts write it?")
    for by, words in (("accumulated", "The stream, layer by layer"), ("component", "Each part")):
        means = result.measurements[f"attribution_{by}"].mean("prompt")
        page.figure(plot(means, title=words), f"{words}, along the metric's direction, at the end; scale frozen.")
    by_group = result.measurements.get("attribution_component_by_group")
    if by_group is not None:
        labels = [str(name) for name in by_group.dataset["component"].values]
        page.figure(
            group_map(by_group, title="What each part writes in each group", labels=labels),
            "The same in each group, in logits, on one scale; the mouse tells the intervals.",
        )
    heads = result.measurements["attribution_head"]
    page.table(["head", "writes, logits", "95 % interval"], _rows(heads, SHOWN), f"Heads onto that direction. {HALVES}")
    by_group = result.measurements.get("attribution_head_by_group")
    if by_group is not None:
        shown = sorted(chosen(heads, SHOWN))
        page.figure(
            group_map(
                by_group, title="What heads write in each group", labels=heads.mean("prompt").labels, places=shown
            ),
            "The same heads in each group.",
        )


def _rows(measured: Measurement, k: int) -> list[list[object]]:
    return [[figure.label, *cells(figure)] for figure in held_out(measured, k)]


def _layers(page: Page, result: StudyResult) -> None:
    known = {site: words for site, words in SITES.items() if site in result.measurements}
    if not known:
        return
    page.section("Which layers carry it?").text(
        "Put in: what the contracted sentence has, into the one written out; or into the contracted one whose "
        "contraction is buried in noise. As fractions, 0 is the run that is patched, 1 the contracted one; in logits, "
        "what changes, where the two runs do not surely differ."
    )
    for site, words in known.items():
        means = fractions({told: result.measurements[f"{site}{name}"] for name, told in HOW.items()})
        page.figure(bars(means, title=f"The {words} of each layer"), f"The {words} of each layer, at all positions.")
    for site, words in known.items():
        for name, told in HOW.items():
            (mean,) = fractions({told: result.measurements[f"{site}_by_position{name}"]}).values()
            page.figure(
                plot(mean, title=f"The {words} by position, {told}"),
                f"The {words}, by layer and position, {told}. Counted from the contraction, and from the end where "
                "prompts are longer: in shorter ones a token may bear two names.",
            )


def _heads(page: Page, result: StudyResult) -> None:
    if "heads_z" not in result.measurements:
        return
    page.section("Heads, taken apart").text(_head_text(result))
    rows = []
    for site, words in PATCHED.items():
        effect = result.measurements[f"heads_{site}"].effect()
        found = _rows(effect, FEW)
        rows += [[words, *row] for row in found or [["none changes anything", None, None]]]
    page.table(["what is patched", "head", "effect, logits", "95 % interval"], rows, f"Each alone. {HALVES}")
    rows = _attention(result)
    columns = ["head", "to the contraction", "95 % interval", "to the verb written out", "95 % interval", "uniform"]
    page.table(columns, rows, f"Attention from the last token, as attention mass. {HALVES}")


def _attention(result: StudyResult) -> list[list[object]]:
    """The heads that attend most, and the two that matter most."""
    sides = [result.measurements[f"attention_to_{name}"] for name in ("contraction", "verb")]
    places = chosen(sides[0], FEW)
    means = [halves(side)[1].mean("prompt") for side in sides]
    labels, uniform = means[0].labels, float(sides[0].dataset["uniform"].values.mean())
    two = str(result.figures["heads_write_alike"].label or result.figures["head"].label).split(" and ")
    places += [labels.index(head) for head in two if head in labels and labels.index(head) not in places]
    rows = []
    for at in places:
        row: list[object] = [labels[at]]
        for mean in means:
            numbers = (float(mean.dataset[name].values.ravel()[at]) for name in ("value", "low", "high"))
            row += cells(Figure.between(*numbers, unit=mean.unit))
        rows.append([*row, f"{uniform:.3f}"])
    return rows


def _head_text(result: StudyResult) -> str:
    head, pattern, by_v, way = (
        result.figures[name] for name in ("head", "head_by_pattern", "head_by_v", "head_v_minus_pattern")
    )
    if head.value is None or way.value is None:
        return f"The head is {_missing(head)}"
    whose = "its values" if by_v.label == head.label else f"the values of its key/value head {by_v.label}"
    told = (
        f"Head **{head.label}** brings back {value(head)} logits; its pattern alone {value(pattern)}, {whose} alone "
        f"{value(by_v)}. Values minus pattern: {value(way)}; what matters of it is *{way.label}*"
    )
    told += f", {way.reason}." if way.label == "undecided" else "."
    attends, verb = result.figures["head_attends"], result.figures["head_attends_to_verb"]
    told += (
        f" From the end it attends to the contraction by {value(attends)}, to the verb written out by {value(verb)}."
    )
    wrote, weights = result.figures["heads_write_alike"], result.figures["heads_ov_alike"]
    if wrote.value is not None:
        told += f" What {wrote.label} write at the end of a contraction has a cosine of {value(wrote)}"
        told += (
            f", in each group: {_by_group(result, 'heads_write_alike ')}."
            if _by_group(result, "heads_write_alike ")
            else "."
        )
    elif wrote.label is not None:
        told += f" What {wrote.label} write cannot be compared: {wrote.reason}."
    return told + (f" Their matrices `W_V W_O` have one of {weights.value:.2f}." if weights.value is not None else "")


def _by_group(result: StudyResult, prefix: str) -> str:
    named = {name.removeprefix(prefix): x for name, x in result.figures.items() if name.startswith(prefix)}
    return ", ".join(f"{code(name)} {'—' if x.value is None else number(x)}" for name, x in named.items())


def _neurons(page: Page, result: StudyResult) -> None:
    swept = result.measurements.get("neurons")
    if swept is None:
        return
    page.section("Every neuron").table(
        ["neuron", "effect, logits", "95 % interval"],
        _rows(swept.effect(), SHOWN),
        f"All {swept.values[0].size:,} neurons, each patched alone. {HALVES}",
    )
    written = result.record.settings.get("written")
    if isinstance(written, dict) and written:
        rows = [[name, *told] for name, told in written.items()]
        page.table(["neuron", "writes for", "writes against"], rows, "Tokens that they write for and against.")


def _texts(page: Page, result: StudyResult, contexts: Contexts | None) -> None:
    if "neurons" not in result.measurements:
        return
    if contexts is None:
        page.text(f"Where in texts they are most active is missing: {str(result.figures['texts'].reason).rstrip('.')}.")
        return
    page.text(f"Where they are most active, in {contexts.tally.n:,} tokens of {contexts.n_documents:,} documents:")
    for label in contexts.labels:
        for place in contexts.of(label):
            page.figure(context_view(place, label), f"{label}: activation {place.value:.3g}.")


def _split(page: Page, result: StudyResult) -> None:
    page.section("Does it add up?").text(
        "Four prompts for each: with the pronoun or a noun at the end, contracted before or not. If what the pronoun "
        "and the contraction bring adds up (a bigram and a skip-trigram), what both bring beyond the sum is nothing."
    )
    beyond = result.figures["interaction"]
    if beyond.value is None:
        page.text(f"The split is {_missing(beyond)}")
        return
    names = SPLIT | {name: name for name in result.figures if name.startswith("interaction ")}
    rows = [[words, *cells(x), x.label] for name, words in names.items() for x in [result.figures[name]]]
    page.table(
        ["", "logits", "95 % interval", "verdict"], rows, "Means over frames; what is beyond the sum in each group."
    )
    page.text(f"What both bring beyond the sum: {verdict(beyond)}")
