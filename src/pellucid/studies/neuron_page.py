"""Where neurons, heads or directions are active, as a page: each place's text coloured by the activation.

In: contexts, and tables of the tokens written. Out: views and a page. Nothing is computed here.
"""

from collections.abc import Sequence

import numpy as np

from pellucid.analysis.contexts import Context, Contexts
from pellucid.analysis.neurons import WrittenTokens
from pellucid.report.page import Page
from pellucid.report.prose import code
from pellucid.viz.showing import unshown
from pellucid.viz.tokens import ColoredTokens, colored_tokens

SHOWN = 8
"""Places of each that a page shows, if not told otherwise."""


def context_view(context: Context, label: str) -> ColoredTokens:
    """The text around a place, each token coloured by the activation; BOS, which was left out, is not.

    Args:
        context: The place.
        label: What is active there.

    Example:
        >>> from pellucid import HookedTransformer
        >>> from pellucid.analysis import top_contexts
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> context_view(top_contexts(model, ["5 6 7"], what="1.0", k=1).of("1.0")[0], "1.0")
        <4 tokens coloured by activation of 1.0; .save('page.html') writes a page>
    """
    words = list(context.words or map(str, context.tokens))
    values = np.array(context.activations, dtype=np.float64)
    if context.bos:
        values[0] = np.nan
    return colored_tokens(words, values, name=f"activation of {label}")


def neuron_page(contexts: Contexts, written: WrittenTokens | None = None, *, places: int = SHOWN) -> Page:
    """A page on what was watched: how active each is over all tokens, its best places, the tokens it writes.

    Args:
        contexts: From `pellucid.analysis.top_contexts`.
        written: From `pellucid.analysis.written_tokens`, of the same, or of some of them.
        places: Shown of each at most, the negative ones apart.
    """
    tally = contexts.tally
    seen = f"{tally.n:,} tokens of {contexts.n_documents:,} documents"
    page = Page("Where it is active", lead=f"{', '.join(contexts.labels[:12])} in {seen}.")
    with unshown():
        page.section("Over all tokens")
        data = contexts.statistics.dataset
        names = ["value", *(str(name) for name in data.data_vars if name != "value")]
        rows = [[label, *(float(data[name][i]) for name in names)] for i, label in enumerate(contexts.labels)]
        page.table(
            ["", *("mean" if name == "value" else name.replace("_", " ", 1) for name in names)],
            rows,
            f"Activations over {seen}, BOS left out. Active: the share of the tokens above 0. Quantiles are right to "
            "1 %.",
        )
        for label in contexts.labels:
            page.section(label)
            _words(page, label, written)
            _places(page, label, contexts.of(label)[:places], "largest")
            if contexts.least is not None:
                _places(page, label, contexts.of(label, negative=True)[:places], "most negative")
    return page


def _words(page: Page, label: str, written: WrittenTokens | None) -> None:
    if written is None or label not in written.raised.labels:
        return
    row = written.raised.labels.index(label)
    sides = zip(("raises", "lowers"), written, strict=True)
    told = ". ".join(f"It {verb} {_listed(table.words[row])}" for verb, table in sides) + ", directly."
    singular = label in written.raised.record.settings["singular"]
    strongest = "Of the directions that it writes along, told is the strongest, in one of its two senses. "
    page.text((strongest if singular else "") + told)


def _listed(words: Sequence[str]) -> str:
    return ", ".join(code(word) for word in words)


def _places(page: Page, label: str, places: Sequence[Context], which: str) -> None:
    if not places:
        page.text(f"It is nowhere {'above' if which == 'largest' else 'below'} 0.")
    for number, place in enumerate(places, start=1):
        caption = (
            f"{label}: activation {place.value:.3g} at {code(place.words[place.at])}, number {number} of the {which}; "
            f"document {place.document}, position {place.position}."
        )
        page.figure(context_view(place, label), caption)
