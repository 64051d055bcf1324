"""A page about what a lens found on one prompt: heat maps that tell each cell's tokens, and a table to sort."""

from typing import TYPE_CHECKING, Any

import numpy as np

from pellucid.analysis.lens import Lens
from pellucid.analysis.lens_attention import AttentionLens
from pellucid.base.errors import ArgumentError
from pellucid.measurement import Measurement
from pellucid.report.page import Page
from pellucid.report.prose import code
from pellucid.viz.plots import plot
from pellucid.viz.showing import unshown
from pellucid.viz.table import MOST, sortable_table
from pellucid.viz.tokens import colored_tokens
from pellucid.viz.visible import label, visible

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

ASKED = {
    "answer": "the answer",
    "prediction": "the model's own most probable token there",
    "next": "the token that follows there",
}
"""What rank and probability speak of, in words."""
SITES = {
    "resid": "the stream that each layer reads, and the final one",
    "attn_out": "what each layer's attention writes, alone",
    "mlp_out": "what each layer's MLP writes, alone",
    "head": "what each head writes at the prompt's end, alone",
}
LEAD = 300
"""Characters of the prompt that stand at the top."""
FEW = 30
"""Columns whose cells have room for a token."""
SHORT = 10
"""Characters of a token that a cell shows."""


def lens_page(found: Lens, *, prompt: int = 0) -> Page:
    """One page: what each state says, how probable what is asked about is there, and how far it is from the end.

    Args:
        found: By `pellucid.analysis.logit_lens`.
        prompt: Which of its prompts.

    Raises:
        ArgumentError: There is no such prompt, or the model has no layers to show.

    Example:
        >>> from pellucid import HookedTransformer
        >>> from pellucid.analysis import logit_lens
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> page = lens_page(logit_lens(model, "5 9 7 3 5 9"))
        >>> "What does each layer say?" in page.html()
        True
    """
    if not 0 <= prompt < len(found.tokens):
        raise ArgumentError(f"prompt must lie in 0..{len(found.tokens) - 1}, got {prompt}")
    if not found.layers:
        raise ArgumentError("a page of a lens needs a layer at least, got none")
    tuned = found.record.task == "tuned lens"
    end = max(found.layers)
    word, share = found.top(end, -1, head=None if found.site != "head" else 0, prompt=prompt)[0]
    kind = "tuned lens" if tuned else "logit lens"
    page = Page(
        f"{kind.capitalize()} of {found.record.model or 'a model of no name'}",
        lead=f"{code(''.join(found.tokens[prompt])[:LEAD])}: {SITES[found.site]}. "
        + (f"The end says {code(word)}, {share:.1%}." if found.site == "resid" else ""),
    )
    page.text(
        "Each state goes through the final norm, recomputed for it, and the unembedding"
        + (", after its layer's trained translator." if tuned else ".")
    )
    with unshown():
        shares, far = (_shown(found, x, prompt) for x in (found.probability, found.kl))
        page.section("What does each layer say?" if found.site != "head" else "What does each head say?").figure(
            _map(found, shares, prompt, zmin=0, zmax=1, color_continuous_scale="Blues"),
            f"In each cell its most probable token; the colour is the probability of {ASKED[found.target]}. "
            "The mouse tells more tokens.",
        )
        page.section("How far is it from what the model says?").figure(
            _map(found, far, prompt, zmin=0, color_continuous_scale="Oranges"),
            "KL divergence of what each state says from what the model says at that position, nats; 0 is the same.",
        )
        if shares.values.size <= MOST:
            columns = {"probability": shares, "rank": _shown(found, found.rank, prompt), "KL": far}
            page.section("All numbers").figure(
                sortable_table(columns, rows=_cells(found, shares, prompt), rows_name="cell"),
                f"Rank (0 is on top) and probability of {ASKED[found.target]}, and the KL divergence, for each cell.",
            )
    return page


def attention_lens_page(found: AttentionLens, *, prompt: int = 0) -> Page:
    """One page: how much a head attends to each place, and what it would write of it.

    Args:
        found: By `pellucid.analysis.attention_lens`.
        prompt: Which of its prompts.

    Raises:
        ArgumentError: There is no such prompt.

    Example:
        >>> from pellucid import HookedTransformer
        >>> from pellucid.analysis import attention_lens
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> "What would it say of each place?" in attention_lens_page(attention_lens(model, "5 9 5", 1, 0)).html()
        True
    """
    if not 0 <= prompt < len(found.tokens):
        raise ArgumentError(f"prompt must lie in 0..{len(found.tokens) - 1}, got {prompt}")
    tokens, words = found.tokens[prompt], found.words[prompt]
    mass, share, rank = (x.values[prompt, : len(tokens)] for x in (found.attention, found.probability, found.rank))
    settings = found.record.settings
    of = "the answer" if settings["target"] == "answer" else "the source token itself"
    page = Page(
        f"Attention lens of head {found.label} of {found.record.model or 'a model of no name'}",
        lead=f"{code(''.join(tokens)[:LEAD])}: what the head would write of each place, if it attended there alone.",
    )
    page.text("What it makes of the stream there goes through the final norm, made anew for each, and the unembedding.")
    with unshown():
        page.section("Where does it look?").figure(
            colored_tokens([visible(token) for token in tokens], mass, name="attention"),
            f"Attention of position {settings['query']} (negative ones count from the end), attention mass.",
        )
    rows = []
    for at, (token, said) in enumerate(zip(tokens, words, strict=True)):
        shares = found.shares[prompt, at].tolist()
        told = ", ".join(f"{code(visible(word))} {p:.0%}" for word, p in zip(said, shares, strict=True))
        rows.append([at, visible(token), float(mass[at]), told, float(share[at]), f"{rank[at]:.0f}"])
    page.section("What would it say of each place?").table(
        ["position", "source", "attention", "says", "probability", "rank"],
        rows,
        f"The most probable tokens; probability and rank (0 is on top) of {of}.",
    )
    return page


def _shown(found: Lens, measured: Measurement, prompt: int) -> Measurement:
    """Two axes of one prompt, without padding: layer and position, or layer and head at the end."""
    n = len(found.tokens[prompt])
    label_of = measured.dataset["prompt"].values.tolist()[prompt]
    return measured.sel(prompt=label_of, pos=n - 1 if found.site == "head" else list(range(n)))


def _cells(found: Lens, shown: Measurement, prompt: int) -> list[str]:
    """What the rows of the table are called."""
    if found.site == "head":
        return [f"{layer}.{head}" for layer, head in np.ndindex(*shown.shape)]
    tokens = found.tokens[prompt]
    return [f"layer {found.layers[row]} pos {pos} {visible(tokens[pos])}" for row, pos in np.ndindex(*shown.shape)]


def _map(found: Lens, measured: Measurement, prompt: int, **px: Any) -> "Figure":
    """A heat map whose cells show their top token."""
    figure = plot(measured, title="", **px)
    told, words = np.empty(measured.shape, dtype=object), np.empty(measured.shape, dtype=object)
    for place, name in zip(np.ndindex(*measured.shape), _cells(found, measured, prompt), strict=True):
        head, pos = (place[1], -1) if found.site == "head" else (None, place[1])
        said = found.top(found.layers[place[0]], pos, head=head, prompt=prompt)
        words[place] = label(said[0][0][:SHORT])
        lines = [label(name), f"{measured.values[place]:.4g} {measured.unit}"]
        told[place] = "<br>".join([*lines, *(f"{label(word)} {share:.1%}" for word, share in said)])
    figure.update_traces(text=words, hovertext=told, hovertemplate="%{hovertext}<extra></extra>")
    if measured.shape[1] <= FEW:
        figure.update_traces(texttemplate="%{text}")
    figure.update_yaxes(autorange="reversed" if found.site == "head" else True)  # the final state stands on top
    figure.update_layout(height=max(240, 120 + 28 * measured.shape[0]))
    return figure
