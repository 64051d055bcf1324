"""Which run is patched, what the two runs are, and where a fraction lies between them."""

import pytest
import torch

from pellucid import Noise, patching
from pellucid.patching import LogitDiff
from tests.models import CONFIGS
from tests.patching.comparing import Asked, assert_equals_the_loop, double, prompts_of

pytestmark = pytest.mark.usefixtures("without_shape_checks")

DIRECTIONS = ["denoise", "noise"]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("direction, whole", [("denoise", 1.0), ("noise", 0.0)])
def test_everything_patched_gives_the_other_run(kind, direction, whole):
    pairs = prompts_of((6, 6, 6), same=(0, 1, 2)).pairs
    found = patching.sweep(double(kind), pairs, site="resid_pre", over="layer", direction=direction, progress=False)
    other = found.dataset["clean" if direction == "denoise" else "corrupted"].values
    assert found.values == pytest.approx(other[:, None].repeat(2, 1), abs=1e-9)
    assert found.normalised(per_prompt=True).values == pytest.approx(whole, abs=1e-9)
    assert found.record.settings["direction"] == direction


@pytest.mark.parametrize("direction, base", [("denoise", "corrupted"), ("noise", "clean")])
def test_the_effect_is_what_is_added_to_the_run_that_is_patched(direction, base):
    found = patching.sweep(
        double(), prompts_of().pairs, site="z", over=("layer", "head"), direction=direction, progress=False
    )
    expected = found.values - found.dataset[base].values[:, None, None]
    assert (found.effect().values == expected).all()


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_two_runs_are_measured_as_the_model_runs_them(kind):
    prompts, model = prompts_of((6, 4), answers=2), double(kind)
    pairs = prompts.pairs
    found = patching.sweep(model, pairs, site="attn_out", over="layer", progress=False)
    for name in ("clean", "corrupted"):
        tokens = getattr(pairs, name)
        with torch.no_grad():
            expected = LogitDiff()(model(tokens, attention_mask=pairs.mask.long()), pairs)
        assert found.dataset[name].values == pytest.approx(expected.numpy(), abs=1e-9)


CORRUPT = {
    "everywhere": Noise("embed", std=0.5),
    "a named position": Noise("embed", pos="early", std=0.5, seed=3),
    "the end": Noise("embed", pos="end", std=0.5),
    "a position": Noise("embed", pos=1, std=0.5),
    "some positions": Noise("embed", pos=[1, 2], std=0.5),
    "the last position": Noise("embed", pos=-1, std=0.5),
    "where positions are told": Noise("pos_embed", pos="first", std=0.5),
}


@pytest.mark.parametrize("corrupt", CORRUPT.values(), ids=CORRUPT)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_noise_on_the_embedding_can_be_what_corrupts(corrupt, direction):
    for site, over in [("resid_pre", ("layer", "position")), ("z", ("layer", "head")), ("embed", "position")]:
        asked = Asked(site, over, corrupt=corrupt, direction=direction)
        found = assert_equals_the_loop(double(), prompts_of((6, 4, 3)), asked, limit=8)
        assert "Noise" in found.record.settings["corrupt"]


@pytest.mark.parametrize(
    "site, over", [("resid_mid", ("layer", "pos")), ("v", ("layer", "pos")), ("pattern", ("layer", "q_pos"))]
)
def test_what_lies_before_the_noise_stays_as_it_is(site, over):
    prompts = prompts_of((6, 6), same=2)
    asked = Asked(site, over, corrupt=Noise("embed", pos="first", std=0.5))
    found = assert_equals_the_loop(double("gpt2"), prompts, asked, limit=20)
    base = found.dataset["corrupted"].values[:, None, None]
    changed = found.values != base
    assert not changed[:, :, :2].any() and changed[:, :, 2].any()


def test_noise_that_corrupts_does_not_look_at_the_corrupted_tokens():
    prompts, model = prompts_of((6, 6)), double()
    ask = {"site": "resid_pre", "over": ("layer", "pos"), "corrupt": Noise("embed", std=1.0), "progress": False}
    same = patching.pairs(prompts.clean, prompts.clean, answer=prompts.answer, wrong=prompts.wrong)
    assert (patching.sweep(model, same, **ask).values == patching.sweep(model, prompts.pairs, **ask).values).all()


def test_each_prompt_has_noise_of_its_own():
    prompts = prompts_of((6,))
    pairs = patching.pairs(prompts.clean * 2, prompts.clean * 2, answer=prompts.answer * 2, wrong=prompts.wrong * 2)
    found = patching.sweep(
        double(), pairs, site="embed", over=(), corrupt=Noise("embed", std=1.0, seed=4), progress=False
    )
    clean, corrupted = found.dataset["clean"].values, found.dataset["corrupted"].values
    assert clean[0] == pytest.approx(clean[1], abs=1e-12) and abs(corrupted[0] - corrupted[1]) > 1e-3


def test_the_noise_of_a_prompt_does_not_depend_on_longer_ones_beside_it():
    prompts, model = prompts_of((3, 11)), double()
    ask = {"site": "resid_pre", "over": ("layer", "position"), "corrupt": Noise("embed", std=1.0), "progress": False}
    together, alone = (patching.sweep(model, part.pairs, **ask) for part in (prompts, prompts.alone(0)))
    assert together.values[0] == pytest.approx(alone.values[0], abs=1e-9)
    assert together.dataset["corrupted"].values[0] == pytest.approx(alone.dataset["corrupted"].values[0], abs=1e-9)
