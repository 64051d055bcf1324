"""Charts of plotly in a page of ours: drawn by the installed script, hovered, in light and dark."""

import numpy as np
import pytest
import torch

from pellucid import Measurement, viz
from pellucid.base.record import Record
from pellucid.viz.charts import save


@pytest.fixture
def charted(opened, tmp_path):
    """``with charted(figure) as page``."""

    def chart(figure, **options):
        save(figure, tmp_path / "chart.html")
        return opened(tmp_path / "chart.html", **options)

    return chart


def hover(page, x: float, y: float) -> str:
    """What the mouse tells at a place of the chart, in fractions of its area."""
    box = page.locator(".nsewdrag").first.bounding_box()
    for step in (-2, 0):  # plotly listens to movement
        page.mouse.move(box["x"] + x * box["width"] + step, box["y"] + y * box["height"])
    page.locator(".hoverlayer .hovertext").first.wait_for()
    return " ".join(page.locator(".hoverlayer text").all_text_contents())


def test_a_heatmap_of_a_tensor_shows_tokens_as_they_are(charted):
    values = torch.tensor([[0.125, 0.5, -0.000025], [0.0, 0.75, 1.0]])
    figure = viz.imshow(values, x=["<s>", " the", " the"], xaxis="Position", yaxis="Layer", title="Patched")
    with charted(figure) as page:
        assert page.locator(".heatmaplayer image").count() == 1
        assert page.locator(".xtick").all_text_contents() == ["<s> 0", "·the 1", "·the 2"]
        assert page.locator(".ytick").all_text_contents() == ["1", "0"]
        told = hover(page, 0.9, 0.25)
        assert "·the 2" in told and "-0.000025" in told.replace("−", "-")


def test_a_measurement_tells_cell_number_and_interval(charted):
    values = np.array([[0.1, 0.2], [0.3, 0.9]]) + np.linspace(-0.02, 0.02, 6)[:, None, None]
    scores = Measurement(values, ("prompt", "layer", "head"), unit="attention mass", record=Record(), name="induction")
    mean = scores.mean("prompt")
    with charted(mean.plot()) as page:
        told = hover(page, 0.75, 0.75)
        low, high = (mean.dataset[key].values[1, 1] for key in ("low", "high"))
        assert "1.1" in told and "0.9 attention mass" in told and f"[{low:.4g}, {high:.4g}]" in told
    with charted(mean.sel(head=1).plot()) as page:
        assert page.locator(".scatterlayer .js-fill").count() == 1
        assert "0.2 attention mass" in hover(page, 0.01, 0.5)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(charted, contrast, scheme):
    figure = viz.line(torch.randn(20), xaxis="Position", yaxis="Loss", title="Loss by position")
    figure.add_vline(x=3)
    with charted(figure, scheme=scheme) as page:
        marked = page.locator(".shapelayer path").evaluate("path => getComputedStyle(path).stroke")
        assert marked == {"light": "rgb(27, 31, 36)", "dark": "rgb(230, 232, 235)"}[scheme]
        assert page.locator(".scatterlayer .js-line").count() == 1
        assert contrast(page, ".main-svg")[0] >= 4.5
        page.emulate_media(media="print")
        page.wait_for_function("() => getComputedStyle(document.querySelector('.gtitle')).fill === 'rgb(27, 31, 36)'")


def test_nothing_offers_to_send_a_chart_away(charted):
    with charted(viz.scatter(torch.randn(5), torch.randn(5), xaxis="a", yaxis="b")) as page:
        assert page.locator(".scatterlayer .point").count() == 5
        titles = page.locator(".modebar-btn").evaluate_all("all => all.map(one => one.dataset.title)")
        assert "Zoom" in titles
        assert not [title for title in titles if title and ("share" in title.lower() or "cloud" in title.lower())]
        assert page.locator("a[href^=http]").count() == 0
