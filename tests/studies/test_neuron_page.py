"""The page on what was watched."""

import math

import torch

from pellucid import MLPConfig
from pellucid.analysis import HeadOutput, StreamDirection, top_contexts, written_tokens
from pellucid.studies.neuron_page import context_view, neuron_page
from tests.models import config_of, model_of


def test_the_page_shows_every_place_and_the_tokens_written():
    model = model_of()
    vector = model.W_E[3].detach()
    what = ["L0N3", StreamDirection(1, vector, "the three"), HeadOutput(1, 2, vector, "a name"), "1.2"]
    found = top_contexts(model, [[1, 2, 3], [4, 3, 5]], what=what, k=2, negative=True)
    page = neuron_page(found, written_tokens(model, what, k=3), places=1).html()
    for label in ("L0N3", "the three", "1.2", "1.2 along a name"):
        assert f"{label}: activation" in page
    assert page.count("number 1 of the largest") == 4 and "number 2" not in page
    assert (
        page.count("It raises") == 4 and page.count("told is the strongest, in one of its two senses. It raises") == 1
    )
    assert "quantile 99_9" in page and "6 tokens of 2 documents" in page


def test_where_nothing_happens_nothing_is_numbered():
    model = model_of(config_of(mlp=MLPConfig(d_mlp=14, act="relu")))
    with torch.no_grad():
        model.blocks[0].mlp.b_in[3] = -1e6
    page = neuron_page(top_contexts(model, [[1, 2, 3]], what="L0N3", k=2, negative=True)).html()
    assert "It is nowhere above 0." in page and "It is nowhere below 0." in page and "number 1 of" not in page


def test_bos_has_no_colour():
    from pellucid import HookedTransformer

    model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
    (place,) = top_contexts(model, ["5 6 7"], what="1.0", k=1).of("1.0")
    view = context_view(place, "1.0")
    assert math.isnan(view.values[0]) and view.values[place.at] == place.value
    assert view.tokens == ["<bos>" if word.startswith("<") else word for word in place.words]
