"""The part of the report that asks for the circuit: do MLPs matter, and is it in the weights?

In: what the study found, and the page so far. Out: its next sections.
"""

from collections.abc import Sequence

import numpy as np

from pellucid.measurement import Measurement
from pellucid.report.page import Page
from pellucid.studies.induction_circuit import SHIFT, TOP1
from pellucid.studies.published import FIGURES
from pellucid.studies.result import StudyResult
from pellucid.viz.plots import plot

SHOWN_PAIRS = 5
"""Rows of composition for each of q, k and v."""
MANY = 10
"""Misses of a circuit from which on a share of them says something."""


def mlps(page: Page, result: StudyResult) -> None:
    """What changes when MLP outputs are those of one period before."""
    page.section("Does an MLP matter?")
    figure, measured = result.figures[SHIFT], result.measurements.get("shifted_mlp")
    if measured is None:
        page.text(f"This cannot be asked: {figure.reason}.")
        return
    page.text(
        "In the second half each MLP sees a token that it saw before, one period earlier. If all it does there is what "
        "it did then, its output can be replaced by the old one at no cost. So each MLP's output was overwritten, one "
        "layer and position at a time, by its output one period before; what the loss gains is what the MLP had added."
    )
    if figure.value is not None:
        interval = "" if figure.low is None else f", interval {figure.low:.3f} … {figure.high:.3f}"
        page.text(
            f"The largest change is that of {figure.label}: **{figure.value:.3f} nats**{interval}. It "
            f"was chosen on one "
            f"half of {measured.shape[0]} prompts and measured on the other."
        )
    else:
        page.note(f"{figure.reason}.")
        return
    first, second = (result.figures[f"accuracy_{half}_half"].value or 0.0 for half in ("first", "second"))
    if second <= first + 0.05:
        page.note("This model does not predict the repetition, so the changes below say nothing of induction.")
    article = (
        " The first column is the end of the first copy, overwritten by what the MLP gave at the very beginning, which "
        "with BOS is what it makes of BOS: it is the article's first token, and no sign of induction."
        if result.record.settings["rule"] == "article"
        else " The last token's column is 0: no loss comes after it."
    )
    page.figure(
        plot(measured.mean("prompt"), title="Δ loss"),
        "Change of the mean loss, by layer and position, when that MLP's output there is the one from a period before. "
        f"Blue: the loss grows, so the MLP adds something there; white: it adds nothing new; red: it falls.{article}",
    )
    together, summed = (result.measurements[f"shifted_mlp_{part}"].mean("prompt") for part in ("layer", "summed"))
    rows: list[list[object]] = [
        [f"layer {label}", f"{value:.4f}", f"{alone:.4f}"]
        for (label, value), alone in zip(together.items(), summed.values.tolist(), strict=True)
    ]
    rows.append(["all layers", f"{result.measurements['shifted_mlp_whole'].mean('prompt').item():.4f}", None])
    page.table(
        ["", "all positions at once", "sum of one at a time"],
        rows,
        f"Δ loss in nats, means over {measured.shape[0]} prompts, when the whole second half is overwritten.",
    )


def weights(page: Page, result: StudyResult) -> None:
    """The circuit as the weights have it, and which heads read which."""
    page.section("Is the circuit in the weights?").text(
        "A previous-token head writes into each position what stood before it; an induction head "
        "looks for its own token "
        "among what was written. Put together from the weights alone, this is a matrix between all tokens and all "
        "tokens: how much each token, as a query, likes each token, as what was copied. If the circuit is there, each "
        "token likes itself best."
    )
    matches, names = result.measurements.get("two_head_circuit"), list(TOP1)
    if matches is None:
        reasons(page, result, names)
    else:
        _circuit(page, result, matches)
        for kind, name in (("W_E alone", "two_head_circuit"), ("W_E and the first MLP", "two_head_circuit_extended")):
            _near_misses(page, result, kind, f"{name}_near_misses")
    pairs = result.measurements.get("composition")
    if pairs is not None and pairs.values.size:
        rows = []
        for way in ("k", "q", "v"):
            best = pairs.sel(input=way).top(SHOWN_PAIRS)
            rows += [[label, f"{value:.3f}"] for label, value in best.items() if value > 0]
        if rows:
            page.table(
                ["heads and input", "composition"],
                rows,
                "How much the later head reads of what the earlier one writes, through its keys (k), queries (q) or "
                "values (v), beyond what random weights would have; the largest of each. In an induction circuit the "
                "induction head reads the previous-token head through its keys.",
            )
        page.figure(
            plot(pairs.sel(input="k"), title="Composition through keys"),
            "The same for all pairs, through keys: rows write, columns read.",
        )


def _circuit(page: Page, result: StudyResult, matches: Measurement) -> None:
    extended = result.measurements.get("two_head_circuit_extended")
    columns = [str(name) for name in matches.dataset["group"].values]
    first = str(result.figures[next(iter(TOP1))].label)
    rows: list[list[object]] = []
    for sender in (str(name) for name in matches.dataset["sender"].values):
        for receiver in (str(name) for name in matches.dataset["receiver"].values):
            of_pair = matches.sel(sender=sender, receiver=receiver)
            if np.isfinite(of_pair.values).all():
                rows.append([f"{sender} → {receiver}", *(f"{of_pair.sel(group=c).item():.4f}" for c in columns)])
    if extended is not None:
        rows.append([f"{first}, W_E and first MLP", *(f"{value:.4f}" for value in extended.values.ravel())])
    rows.append(["by chance", *(f"{matches.dataset['chance'].sel(group=c).item():.2g}" for c in columns)])
    distance = matches.record.settings.get("distance")
    rotary = "" if distance is None else f" Positions are rotary: of keys Δ = {distance} tokens back."
    page.table(
        ["circuit", *columns],
        rows,
        "Share of all tokens that find themselves, for each pair of a previous-token head and a head with an induction "
        f"stripe, the best ones first.{rotary}",
    )
    known = [result.figures[name].published for name in TOP1 if result.figures[name].published is not None]
    if known:
        said = FIGURES["induction"][next(iter(TOP1))]
        page.note(f"Published for {said.label}: {known[0]} ({said.source}; {said.said}).")


def _near_misses(page: Page, result: StudyResult, kind: str, name: str) -> None:
    measured = result.measurements.get(name)
    if measured is None:
        return
    pair = str(result.figures[next(iter(TOP1))].label)
    sender, receiver = pair.split(" → ")
    misses = measured.dataset.sel(sender=sender, receiver=receiver)
    said = []
    for direction in (str(group) for group in misses["group"].values):
        of = misses.sel(group=direction)
        if np.isfinite(of["value"].item()) and of["missed"].item() >= MANY:
            said.append(
                f"{direction}: of {of['missed'].item():.0f} tokens that find another, "
                f"{of['value'].item():.0%} find one "
                f"of their own ten nearest neighbours ({of['shuffled'].item():.1%} when the finds are dealt out anew)"
            )
    if said:
        page.text(f"“Or a token very similar”? {pair}, {kind}: {'; '.join(said)}.")


def reasons(page: Page, result: StudyResult, names: Sequence[str]) -> None:
    """Why figures are missing, or have no interval: each reason once."""
    for reason in dict.fromkeys(result.figures[name].reason for name in names):
        if reason is not None:
            page.note(f"{reason[0].upper()}{reason[1:]}.")
