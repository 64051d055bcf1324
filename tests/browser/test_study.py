"""The report of a study in a browser: all is drawn, hover tells the measured numbers, nothing is fetched."""

import json
import re

import pytest

from pellucid import HookedTransformer, Measurement
from pellucid.analysis.repeated import repeated_tokens
from pellucid.studies.induction import induction
from pellucid.studies.induction_page import induction_page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
    result = induction(model, repeated_tokens(model, seq_len=12, batch=4))
    place = tmp_path_factory.mktemp("study")
    result.save(place, page=induction_page(result))
    return place


def test_every_figure_is_drawn(opened, folder):
    with opened(folder / "report.html") as page:
        captions = page.locator("figcaption").all_inner_texts()
        assert len(captions) >= 8 and all(len(caption) > 40 for caption in captions)
        assert page.locator(".js-plotly-plot").count() == 3
        assert page.locator("[data-drawn] .pellucid").count() == 4
        assert page.locator(".pellucid canvas").count() >= 2


def test_the_mouse_tells_the_weight_that_was_measured(opened, folder):
    label = json.loads((folder / "result.json").read_text())["figures"]["induction_head"]["label"]
    pattern = Measurement.load(folder / "measurements" / "pattern_induction_head.nc")
    query = key = 14  # the second copy's second token; the stripe lies S - 1 = 11 back
    key -= 11
    with opened(folder / "report.html") as page:
        view = page.locator(".pellucid").filter(has=page.locator("canvas")).first
        large = view.locator("canvas").last
        large.scroll_into_view_if_needed()
        box = large.bounding_box()
        n = pattern.shape[1]
        large.hover(position={"x": box["width"] * (key + 0.5) / n, "y": box["height"] * (query + 0.5) / n})
        told = view.inner_text()
    weight = pattern.sel(head=int(label.split(".")[1]), q_pos=query, k_pos=key).item()
    assert weight > 0.5
    shown = re.search(rf"destination {query}\s.*?source {key}\s.*?(\d\.\d+)", told, re.S)
    assert float(shown[1]) == pytest.approx(weight, abs=1e-3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_in_light_and_dark_without_the_network(opened, folder, scheme):
    with opened(folder / "report.html", scheme=scheme) as page:
        assert page.locator("h1").inner_text() == "Repeated tokens: toy-induction"
        assert page.locator("nav a").count() == page.locator("h2").count() == 8
