"""Sweeps of every site with the shape checks of the tests on, which the other modules here leave out."""

import pytest

from pellucid import Noise, Zero, patching
from pellucid.patching import KL, Accuracy, Logit, LogitDiff, LogProb, Loss, Rank
from tests.patching.comparing import double, prompts_of
from tests.patching.questions import OVER
from tests.reference import sweep as loop

KINDS = {site: "llama" if loop.points(double("llama"), site) else "gpt2" for site in OVER}


@pytest.mark.parametrize("site, kind", KINDS.items())
def test_annotations_hold_at_every_site(site, kind):
    over, direction = OVER[site][-1], ["denoise", "noise"][list(OVER).index(site) % 2]
    prompts = prompts_of((4, 2) if "position" in over else (4, 4), same=1, answers=2)
    found = patching.sweep(double(kind), prompts.pairs, site=site, over=over, direction=direction, progress=False)
    assert found.dims == ("prompt", *over)


@pytest.mark.parametrize("kind", ["attention only", "bare"])
@pytest.mark.parametrize("metric", [LogitDiff, Logit, LogProb, Rank, KL, Accuracy, Loss])
def test_annotations_hold_for_every_metric(kind, metric):
    pairs = prompts_of((4, 2), same=1, answers=3).pairs
    for site in ("resid_pre", ("q", "attn_out")):
        found = patching.sweep(double(kind), pairs, site=site, over="layer", metric=metric(), progress=False)
        assert found.unit == metric.unit


@pytest.mark.parametrize("site", ["resid_pre", "z", "pattern", "post", "ln1.normalized", ("z", "mlp_out")])
def test_annotations_hold_for_edits_and_what_is_held(site):
    pairs, model = prompts_of((4, 3), same=1).pairs, double()
    for by in (Zero(), Noise(std=0.5)):
        for freeze in ((), ("ln_scale", "pattern")):
            found = patching.ablate(model, pairs, site=site, over="layer", by=by, freeze=freeze, progress=False)
            assert found.shape == (2, 2)
