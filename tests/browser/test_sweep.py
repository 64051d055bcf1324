"""The page that `pellucid patch` writes, in a browser."""

import pytest

from pellucid.cli.main import run

COMMAND = ("patch", "--model", "toy-induction", "--site", "resid_pre", "--over", "layer,pos", "--answer", "7")
PROMPTS = ("--clean", "5 9 7 3 8 5 9", "--corrupted", "5 9 4 3 8 5 9", "--wrong", "4")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patch")
    assert run([*COMMAND, *PROMPTS, "--out", str(folder)]) == 0
    return folder / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_heatmap_is_drawn_and_the_mouse_tells_a_cell(opened, report, scheme):
    with opened(report, scheme=scheme) as page:
        assert page.locator("h1").inner_text() == "Patching resid_pre over layer × pos"
        plot = page.locator(".js-plotly-plot").first
        plot.scroll_into_view_if_needed()
        box = plot.locator(".nsewdrag").first.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 3.5 / 8, box["y"] + box["height"] * 0.25)
        told = plot.locator(".hoverlayer").text_content()
        assert "layer 0 pos 3" in told and "1 fraction" in told
