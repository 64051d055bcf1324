"""The report of the study of indirect objects: behaviour, where, which parts, how, the evidence, and what stays open.

In: what the study found. Out: a page. Nothing is computed here but means of what was measured.
"""

from pathlib import Path

from pellucid.analysis.zoo_roles import COPIES, ZOO
from pellucid.report.page import Page
from pellucid.studies.ioi import ROLES
from pellucid.studies.report_cells import HALVES, cells, made, top_cells
from pellucid.studies.result import Figure, StudyResult
from pellucid.viz.plots import plot
from pellucid.viz.showing import unshown
from pellucid.viz.table import sortable_table

WORDS = {
    "name_mover": "name mover: from the end to the indirect object, and writes it",
    "negative": "negative: the same, and writes against it",
    "s_inhibition": "S-inhibition: from the end to the second subject, and keeps name movers off the subject",
    "duplicate_token": "duplicate token: from the second subject to the first",
    "previous_token": "previous token: one back",
    "induction": "induction: from the second subject to the token after the first",
    "backup": "backup: gains direct effect when the name movers are out",
}
SHOWN = 12
EDGES = {
    "edges_to_name_movers": "the name movers' queries",
    "edges_to_heads": "the heads that are missed most",
    "edges_to_logits": "the logits",
}
PAPER = {
    **{"name_mover": "9.9 10.0 9.6", "negative": "10.7 11.10", "s_inhibition": "7.3 7.9 8.6 8.10"},
    **{"duplicate_token": "0.1 3.0 (0.10)", "previous_token": "2.2 4.11", "induction": "5.5 6.9 (5.8 5.9)"},
    "backup": "9.0 9.7 10.1 10.2 10.6 10.10 11.2 11.9",
}
"""The heads of GPT-2 small, as Wang et al. 2022 found them."""


def ioi_page(result: StudyResult) -> Page:
    """The report of `pellucid.studies.ioi.ioi`.

    Args:
        result: What the study found.
    """
    with unshown():
        page = Page(f"Indirect objects: {Path(result.model).name or result.model}", lead=_lead(result))
        parts = (_behaviour, _where, _which, _roles, _how, _evidence, _open, _texts, made)
        for part in parts:
            part(page, result)
    return page


def plays(result: StudyResult, role: str) -> bool:
    """Whether the best head of a role is clear of its control, and surely so, on prompts that did not choose it."""
    more = result.figures[f"{role}_head_minus_control"]
    if more.value is None or more.low is None:
        return False
    return more.value >= ZOO[role].least and more.low > 0


def _lead(result: StudyResult) -> str:
    figures = result.figures
    accuracy, reason = figures["accuracy"], figures["name_mover_head"].reason
    if accuracy.value is None or figures["resid_localised_position"].value is None:
        return f"Nothing can be said of a circuit: {accuracy.reason if accuracy.value is None else reason}."
    told = [f"{figures[f'{role}_head'].label} ({_word(role)})" for role in ROLES if plays(result, role)]
    left = figures["knockout_found_logit_diff"]
    gone = (
        ""
        if left.value is None
        else f" Without {left.label} the logit difference falls from {_number(figures['knockout_none_logit_diff'])} to "
        f"{left.value:.2f}; without as many random heads it is {_number(figures['knockout_random_logit_diff'])}."
    )
    heads = ", ".join(told) or "no head that is clear of its control"
    return f"It prefers the right name on {accuracy.value:.0%} of the prompts. Found: {heads}.{gone}"


def _behaviour(page: Page, result: StudyResult) -> None:
    page.section("Can the model do it?").text(
        "Two people are named, then one of them again; the other one is to be named. The logit difference is that of "
        "the right name minus that of the repeated one; corrupted, the second subject is the other name, so that the "
        "answer turns round."
    )
    words = {
        "accuracy": "right name before the wrong one",
        "top_1": "right name before every token",
        "logit_diff": "logit difference",
        "logit_diff_corrupted": "logit difference, corrupted",
    }
    _figures(page, result, words, "Means over prompts, with their interval.")
    if result.figures["resid_localised_position"].value is None:
        page.note(f"The study ends here. {result.figures['name_mover_head'].reason}.", kind="warning")


def _where(page: Page, result: StudyResult) -> None:
    swept = [result.measurements.get(name) for name in ("resid_pre", "attn_out", "mlp_out")]
    if swept[0] is None:
        return
    at, handed = (result.figures[name] for name in ("resid_localised_position", "resid_handover_layer"))
    elsewhere = result.figures["resid_elsewhere"]
    text = "Before layer 0 the two runs differ in the second subject alone, so that it carries everything there."
    if at.value is not None and handed.value is not None and elsewhere.value is not None:
        n_layers = swept[0].shape[1]
        where = f"From layer {handed.value:.0f} on" if handed.value < n_layers else "Only behind the last layer"
        text += (
            f" Before layer 1 most is carried by **{at.label}**: {_number(at)} of the way from corrupted to clean. "
            f"{where} the last token carries more than any other place. Up to {_number(elsewhere)} of the way stands "
            f"at positions that have no name here ({elsewhere.label})."
        )
    page.section("Where is it decided?").text(text)
    for effect, what in zip(swept, ("stream before each layer", "attention's output", "MLP's output"), strict=True):
        if effect is not None:
            page.figure(
                plot(effect.normalised().mean("prompt"), title=f"Patched: {what}"),
                f"The {what} of the clean prompt put into the corrupted one, layer by layer and position by position; "
                "0 is the corrupted run, 1 the clean one.",
            )


def _which(page: Page, result: StudyResult) -> None:
    z = result.measurements.get("heads_z")
    if z is None:
        return
    page.section("Which parts?")
    components = result.measurements["attribution_component"].mean("prompt")
    page.figure(
        plot(components, title="Direct logit attribution"),
        "What each part writes for the right name, and against the wrong one, at the end; final norm's scale frozen.",
    )
    columns = {
        f"patched {site}": result.measurements[f"heads_{site}"].normalised().mean("prompt") for site in ("z", "q")
    }
    columns["writes, logits"] = result.measurements["attribution_head"].mean("prompt")
    columns["pattern"] = result.measurements["heads_pattern"].normalised().mean("prompt")
    names = [f"{layer}.{head}" for layer in range(z.shape[1]) for head in range(z.shape[2])]
    page.figure(
        sortable_table(columns, rows=names, rows_name="head", sort="patched z"),
        "Every head: its output, query and pattern patched alone, and what it writes directly.",
    )
    page.figure(plot(z.normalised().mean("prompt"), title="Heads patched"), "Each head's output patched alone.")
    neurons = {name: x for name, x in result.measurements.items() if name.startswith("neurons_")}
    for effect in neurons.values():
        page.table(
            ["neuron", "effect, logits", "95 % interval"],
            top_cells(effect.effect(), SHOWN),
            f"Neurons patched alone. {HALVES}",
        )


def _roles(page: Page, result: StudyResult) -> None:
    if result.figures["duplicate_token_head"].value is None and "heads_z" not in result.measurements:
        return
    published = result.figures["paragraph_loss"].published is not None
    rows = []
    for role in ROLES:
        score, control = (result.figures[f"{role}_head{part}"] for part in ("", "_control"))
        verdict = "yes" if plays(result, role) else "no"
        known = [PAPER[role]] if published else []
        rows.append([WORDS[role], score.label, *cells(score), _number(control), score.unit, verdict, *known])
    page.section("Which head plays which role?").table(
        [
            "role",
            "best head",
            "score",
            "95 % interval",
            "control",
            "unit",
            "clear",
            *(["published"] if published else []),
        ],
        rows,
        "The best head of each role, chosen on one half of the prompts and measured on the other. Control: the same "
        "on prompts in which no name is repeated; for the previous token, uniform attention; for a backup, what it "
        "gains when as many other heads of the same layers are out. S-inhibition is attention to the second subject "
        "times what the head takes from the attention of the name movers to the subject. Clear: above the control by "
        f"{', '.join(f'{ZOO[role].least:g} ({_word(role)})' for role in ROLES)}, and above it with 95 % confidence. "
        f"Name movers must have more than {COPIES:.0%} of all names, where they attend to them, among the five tokens "
        "that they write for most, and negative ones among those that they write against most.",
    )
    for role in ROLES:
        figure = result.figures[f"{role}_head"]
        if figure.value is None:
            page.text(f"No {_word(role)} head: {figure.reason}.")


def _how(page: Page, result: StudyResult) -> None:
    sites = {site: result.measurements.get(f"heads_{site}") for site in ("pattern", "v", "q", "k")}
    known = {site: x for site, x in sites.items() if x is not None}
    if not known:
        return
    page.section("How: pattern or value?").text(
        "A head may matter by *where* it looks (pattern, which queries and keys make) or by *what* it finds there "
        "(values)."
    )
    rows = []
    for site, effect in known.items():
        rows += [[site, *row] for row in top_cells(effect.normalised(), 4)]
    columns = ["what is patched", "head", "fraction", "95 % interval"]
    page.table(columns, rows, f"The heads that bring most back, part by part. {HALVES}")
    for name, words in EDGES.items():
        edges = result.measurements.get(name)
        if edges is not None:
            page.table(
                ["edge", "change of the logit difference", "95 % interval"],
                top_cells(edges.effect(), SHOWN, lowest=True),
                f"Edges into {words}, through MLPs: what the sender writes where no name is repeated put in; the ones "
                f"whose loss costs most. {HALVES}",
            )


def _evidence(page: Page, result: StudyResult) -> None:
    left = result.figures["knockout_found_logit_diff"]
    if "knockout" not in result.measurements:
        return
    words = {
        "knockout_none_logit_diff": "all heads",
        "knockout_found_logit_diff": f"without {left.label}",
        "knockout_random_logit_diff": "without as many others",
    }
    page.section("Is it they that do it?").text(
        "The heads that are missed most, one by one, on the first half of the prompts are knocked out together on the "
        "other half: they write what they do where no name is repeated."
    )
    _figures(page, result, words, "Logit difference that is left.")
    rows = [_story(result, label) for label in str(left.label).split()]
    page.table(
        [
            "head",
            "from the end it looks at",
            "from the second subject",
            "behind it",
            "writes for the IO",
            "for the subject",
        ],
        rows,
        "What these heads do, whether a role has a name for it or not: where most of their attention goes among the "
        "named positions, and what they write directly, in logits.",
    )


def _story(result: StudyResult, label: str) -> list[object]:
    layer, head = map(int, label.split("."))
    row: list[object] = [label]
    for query in ("end", "S2", "S2+1"):
        means = result.measurements[f"attention_from_{query}"].sel(layer=layer, head=head).mean("prompt")
        best = int(means.values.argmax())
        row.append(f"{means.dataset['position'].values[best]} ({means.values[best]:.2f})")
    for name in ("IO", "S"):
        written = result.measurements[f"writes_for_{name}"].sel(layer=layer, head=head).mean("prompt")
        row.append(f"{written.item():+.2f}")
    return row


def _open(page: Page, result: StudyResult) -> None:
    page.section("What stays open?")
    undecided = [_word(role) for role in ROLES if not plays(result, role)]
    text = "Scores rest on the prompts of these templates. A set of heads without which a behaviour goes need not be "
    text += "all that makes it; completeness and minimality are not tested here."
    if undecided and "heads_z" in result.measurements:
        text += f" Without a clear head: {', '.join(undecided)}."
    page.text(text)


def _texts(page: Page, result: StudyResult) -> None:
    words = {
        "paragraph_loss": "loss on the introduction's paragraph",
        "sentence_loss": "loss on the sentence",
        "sentence_loss_head_0_8_zeroed": "the same, values of head 0.8 zeroed",
        "pair_logit_diff_clean": "John and Mary, clean",
        "pair_logit_diff_corrupted": "John and Mary, corrupted",
    }
    page.section("The introduction's rows")
    _figures(page, result, words, "Texts of the introduction to TransformerLens. Losses depend on processing.")


def _figures(page: Page, result: StudyResult, words: dict[str, str], caption: str) -> None:
    figures = {name: result.figures[name] for name in words}
    published = any(figure.published is not None for figure in figures.values())
    rows = []
    for name, figure in figures.items():
        shown = [figure.published] if published else []
        rows.append([words[name], *cells(figure), figure.unit, *shown])
    page.table(["", "mean", "95 % interval", "unit", *(["published"] if published else [])], rows, caption)
    missing = dict.fromkeys(figure.reason for figure in figures.values() if figure.value is None)
    for reason in missing:
        page.text(f"Missing: {str(reason).rstrip('.')}.")


def _word(role: str) -> str:
    return WORDS[role].split(":")[0]


def _number(figure: Figure) -> str:
    return "—" if figure.value is None else f"{figure.value:.2f}"
