"""The page on what was watched."""

import math

from pellucid.analysis import StreamDirection, top_contexts, written_tokens
from pellucid.studies.neuron_page import context_view, neuron_page
from tests.models import model_of


def test_the_page_shows_every_place_and_the_tokens_written():
    model = model_of()
    direction = StreamDirection(1, model.W_E[3].detach(), "the three")
    what = ["L0N3", direction]
    found = top_contexts(model, [[1, 2, 3], [4, 3, 5]], what=[*what, "1.2"], k=2, negative=True)
    page = neuron_page(found, written_tokens(model, what, k=3), places=1).html()
    for label in ("L0N3", "the three", "1.2"):
        assert f"{label}: activation" in page
    assert page.count("number 1 of the largest") == 3 and page.count("number 1 of the most negative") == 3
    assert "number 2" not in page and page.count("It raises") == 2 and "quantile 99_9" in page
    assert "6 tokens of 2 documents" in page


def test_bos_has_no_colour():
    from pellucid import HookedTransformer

    model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
    (place,) = top_contexts(model, ["5 6 7"], what="1.0", k=1).of("1.0")
    view = context_view(place, "1.0")
    assert math.isnan(view.values[0]) and view.values[place.at] == place.value
    assert view.tokens == ["<bos>" if word.startswith("<") else word for word in place.words]
