"""The page of a sweep, and the cells in order."""

import numpy as np
import pytest

from pellucid import HookedTransformer, Measurement, patching
from pellucid.report.sweep import fractions, largest, sweep_page

CLEAN = [[0, 5, 9, 7, 3, 8, 5, 9], [0, 4, 9, 7, 3, 8, 4, 9], [0, 2, 9, 7, 3, 8, 2, 9]]


def swept(prompts: int = 3, **asked) -> Measurement:
    model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
    corrupted = [[*row[:3], 12, *row[4:]] for row in CLEAN]
    pairs = patching.pairs(CLEAN[:prompts], corrupted[:prompts], answer=7, wrong=12)
    return patching.sweep(model, pairs, progress=False, **asked)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_largest_cells_come_first_whichever_way_they_move_the_metric(direction):
    effect = swept(site="z", over=("layer", "head"), direction=direction)
    cells = largest(effect, 5)
    moved = effect.effect().mean("prompt")
    assert [abs(cell.effect) for cell in cells] == sorted(np.abs(moved.values.ravel()), reverse=True)[:5]
    told = dict(moved.items())
    shares = dict(fractions(effect).items())
    for cell in cells:
        assert cell.effect == pytest.approx(told[cell.label]) and cell.low < cell.effect < cell.high
        assert cell.fraction == pytest.approx(shares[cell.label])


def test_one_prompt_has_no_interval_and_equal_runs_no_fraction():
    alone = largest(swept(1, site="z", over="layer"), 1)[0]
    assert alone.low is None and alone.high is None and alone.fraction is not None
    model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
    same = patching.pairs(CLEAN, CLEAN, answer=7, wrong=12)
    effect = patching.sweep(model, same, site="z", over="layer", progress=False)
    assert fractions(effect) is None and largest(effect, 1)[0].fraction is None
    assert "No cell moves the metric at all." in sweep_page(effect, model="m").html()


def test_the_page_tells_runs_cells_and_how_it_was_made():
    effect = swept(site="z", over=("layer", "head"))
    texts = [("5 9 <7>", "5 9 12")] * 3
    html = sweep_page(effect, model="toy-induction", texts=texts, explained="known\n  24 of them").html()
    assert "Patching z over layer × head" in html and "Parts of the clean run were put into the corrupted one" in html
    first = largest(effect, 1)[0]
    assert f"<strong>{first.label}</strong> moves the metric most: by {first.effect:+.3g} logits" in html
    assert "5 9 &lt;7&gt;" in html and "<li>24 of them</li>" in html
    assert "fold_ln" in html and "direction denoise" in html


def test_a_sweep_of_more_axes_has_a_picture_for_each_plane():
    effect = swept(site="z", over=("layer", "head", "pos"))
    html = sweep_page(effect, model="m").html()
    assert html.count("<b>Figure") == 2 and "layer 0: each cell" in html
    flat = sweep_page(swept(site=patching_site(), over=()), model="m").html()
    assert "Patching z layer 0 over nothing" in flat and "<b>Figure" not in flat


def patching_site():
    from pellucid import Site

    return Site("z", layer=0)
