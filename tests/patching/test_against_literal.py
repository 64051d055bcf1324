"""Every sweep equals the loop: each site, over each sensible set of axes, in each kind of model."""

import pytest
import torch
from hypothesis import given, settings

from pellucid import Shortformer, Site, patching
from tests.models import CONFIGS, model_of
from tests.patching.comparing import Asked, assert_equals_the_loop, double, prompts_of
from tests.patching.questions import DIRECTIONS, OVER, drawn_questions, question_of
from tests.reference import sweep as loop

pytestmark = pytest.mark.usefixtures("without_shape_checks")

KINDS = {
    **CONFIGS,
    "gpt2, three layers": CONFIGS["gpt2"].change(n_layers=3),
    "llama, three layers": CONFIGS["llama"].change(n_layers=3),
    "llama, one layer": CONFIGS["llama"].change(n_layers=1),
    "attention only, positions told in layer 0": CONFIGS["attention only"].change(positions=Shortformer(layers=1)),
    "partly rotary, one layer": CONFIGS["partly rotary"].change(n_layers=1),
}
MODELS = {kind: model_of(config, dtype=torch.float64) for kind, config in KINDS.items()}
THERE = [(kind, site) for kind, model in MODELS.items() for site in OVER if loop.points(model, site)]


@pytest.mark.parametrize("kind, site", THERE, ids=lambda part: part)
def test_a_site_patched_over_any_axes_equals_the_loop(kind, site):
    most = {"gpt2": 9, "llama": 2}.get(kind, 1)  # all of them in each kind: the slow test below
    for i, over in enumerate(OVER[site][-most:]):
        prompts = prompts_of((4, 6) if "position" in over else (5,), same=1, seed=i)
        asked = Asked(site, over, direction=DIRECTIONS[(THERE.index((kind, site)) + i) % 2])
        assert_equals_the_loop(MODELS[kind], prompts, asked, limit=3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.long), torch.float64])
@pytest.mark.parametrize("kind, site", THERE, ids=lambda part: part)
def test_two_hundred_cells_of_a_site_equal_the_loop_in_both_precisions(kind, site, dtype):
    model = model_of(KINDS[kind], dtype=dtype)
    for i, over in enumerate(OVER[site]):
        lengths = (5, 7, 3) if "position" in over else (6, 6, 6)
        prompts = prompts_of(lengths, same=(2, 0, 1), answers=2, seed=i)
        asked = Asked(site, over, direction=DIRECTIONS[(i + (dtype == torch.float32)) % 2])
        assert_equals_the_loop(model, prompts, asked, limit=70)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("over", [("layer", "pos"), ("pos",), ("layer",)])
def test_in_float32_a_sweep_equals_the_loop_too(kind, over):
    assert_equals_the_loop(model_of(KINDS[kind]), prompts_of((6, 6), same=2), Asked("resid_pre", over), limit=20)


@pytest.mark.parametrize("site", ["resid_pre", "z", "pattern", "embed"])
def test_without_axes_everything_of_a_site_is_patched_at_once(site):
    found = assert_equals_the_loop(double(), prompts_of(), Asked(site, ()))
    assert found.shape == (2,)


def test_the_layers_of_a_site_can_be_told_in_the_site():
    model, prompts = double(CONFIGS["gpt2"].change(n_layers=3)), prompts_of((5, 5))
    for name, axis in [("resid_pre", "pos"), ("z", "head"), ("post", "neuron")]:
        ask = {"pairs": prompts.pairs, "progress": False}
        every = patching.sweep(model, site=name, over=("layer", axis), **ask)
        one = patching.sweep(model, site=Site(name, layer=1), over=axis, **ask)
        assert one.dims == ("prompt", axis)
        assert one.values == pytest.approx(every.sel(layer=1).values, abs=1e-9)
        some = patching.sweep(model, site=Site(name, layer=[0, 2]), over=("layer", axis), **ask)
        assert some.dataset["layer"].values.tolist() == [0, 2]
        assert some.values == pytest.approx(every.sel(layer=[0, 2]).values, abs=1e-9)


def test_the_part_of_a_site_can_be_told_in_the_site():
    model, prompts = double(), prompts_of((5, 5))
    ask = {"pairs": prompts.pairs, "progress": False}
    every = patching.sweep(model, site="z", over=("layer", "head", "pos"), **ask)
    by_head = patching.sweep(model, site=Site("z", pos=3), over=("layer", "head"), **ask)
    assert by_head.values == pytest.approx(every.sel(pos=3).values, abs=1e-9)
    by_pos = patching.sweep(model, site=Site("z", head=1, layer=0), over="pos", **ask)
    assert by_pos.values == pytest.approx(every.sel(head=1, layer=0).values, abs=1e-9)
    uneven = {"pairs": prompts_of((6, 4, 5)).pairs, "progress": False}
    named = patching.sweep(model, site="v", over=("layer", "position"), **uneven)
    by_name = patching.sweep(model, site=Site("v", pos="early"), over="layer", **uneven)
    assert by_name.values == pytest.approx(named.sel(position="early").values, abs=1e-9)


@pytest.mark.parametrize("kind", ["gpt2", "partly rotary"])
@pytest.mark.parametrize("site", ["k", "v", "k_input", "v_input"])
def test_heads_of_keys_and_values_are_heads_where_each_has_its_own(kind, site):
    assert_equals_the_loop(double(kind), prompts_of(), Asked(site, ("layer", "head", "pos")), limit=10)


GROUPS = {
    "one layer": [Site("z", layer=0, head=[0, 2])],
    "across layers": [Site("z", layer=0, head=1), Site("z", layer=2, head=[0, 3])],
    "a layer": Site("z", layer=1),
    "from the end": [Site("z", layer=-1, head=-1)],
    "everywhere": [Site("z", head=3)],
}


def parts_of(model, sites, pos=None) -> loop.Cell:
    """A group of sites as the loop lists it."""
    parts = []
    for site in [sites] if isinstance(sites, Site) else sites:
        layers = range(3) if site.layer is None else [site.layer % 3] if isinstance(site.layer, int) else site.layer
        told = {axis: getattr(site, axis) for axis in ("head", "kv_head", "neuron", "pos", "q_pos", "k_pos")}
        told["pos"] = told["pos"] if pos is None else pos
        parts += [(name, told) for layer in layers for name in loop.points(model, site.name, layer)]
    return parts


def assert_groups_equal_the_loop(groups, *, pos: int | None = None, kind: str = "gpt2") -> None:
    model, prompts = double(CONFIGS[kind].change(n_layers=3)), prompts_of((6, 5) if pos is None else (6, 6))
    over = ("group",) if pos is None else ("group", "pos")
    found = patching.sweep(model, prompts.pairs, over=over, groups=groups, progress=False)
    assert found.dims == ("prompt", *over)
    for i in range(len(prompts)):
        asked = Asked("z", over)
        (clean, _), (corrupted, _) = asked.runs(prompts, i)
        named = prompts.named(i)
        for name, sites in groups.items():
            cell = [
                (full, part | {"pos": named[part["pos"]] if isinstance(part["pos"], str) else part["pos"]})
                for full, part in parts_of(model, sites, pos)
            ]
            give = loop.donor(model, clean, {(name,): cell})
            right, wrong = prompts.answer[i], prompts.wrong[i]
            diff = lambda x, right=right, wrong=wrong: (x[0, -1, right] - x[0, -1, wrong]).item()  # noqa: E731
            expected = loop.patched(model, corrupted, cell, give, diff)
            where = {"group": name} if pos is None else {"group": name, "pos": pos}
            assert found.sel(prompt=i, **where).item() == pytest.approx(expected, abs=1e-9), (name, i)


def test_groups_of_heads_are_patched_at_once():
    assert_groups_equal_the_loop(GROUPS)


def test_groups_of_heads_are_patched_at_one_position():
    assert_groups_equal_the_loop(GROUPS, pos=3)


def test_groups_may_have_their_own_positions_by_number_and_by_name():
    groups = {
        "number": [Site("z", layer=0, head=1, pos=2), Site("z", layer=1, head=2, pos=-1)],
        "name": [Site("z", layer=0, head=1, pos="first"), Site("z", layer=2, pos="end")],
        "several": [Site("z", layer=1, head=[0, 1], pos=[2, 3])],
    }
    assert_groups_equal_the_loop(groups)


def test_groups_may_be_of_several_sites():
    groups = {
        "a path": [Site("v", layer=0, kv_head=1), Site("z", layer=1, head=2), Site("post", layer=2, neuron=[1, 5])],
        "neurons": Site("post", layer=1, neuron=[0, 3, 7]),
        "a square": [Site("pattern", layer=1, head=[0, 1], q_pos=3)],
        "a column": [Site("pattern", layer=1, head=[0, 1], k_pos=2)],
    }
    assert_groups_equal_the_loop(groups)
    assert_groups_equal_the_loop({"a path": groups["a path"], "keys": Site("k", layer=1, kv_head=0)}, kind="llama")


SEVERAL = [
    (("attn_out", "mlp_out"), ("layer", "pos")),
    (("resid_pre", "resid_post"), ("layer",)),
    (("q", "k", "v"), ("layer", "pos")),
    (("q", "z"), ("layer", "head")),
    (("z", "mlp_out"), ("layer", "position")),
    (("attn_scores", "pattern"), ("layer", "head", "q_pos")),
    (("embed", "pos_embed"), ("pos",)),
    (("embed", "resid_post"), ("layer", "pos")),
    (("pre", "post"), ("layer", "neuron")),
]


@pytest.mark.parametrize("sites, over", SEVERAL, ids=lambda part: " ".join(part))
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_several_sites_patched_together_equal_the_loop(sites, over, direction):
    asked = Asked(sites, over, direction=direction)
    assert_equals_the_loop(double("gpt2"), prompts_of((6, 6)), asked, limit=8)


FREEZE = [("ln_scale",), ("pattern",), ("ln_scale", "pattern")]


@pytest.mark.parametrize("freeze", FREEZE, ids="+".join)
@pytest.mark.parametrize("kind", ["gpt2", "llama", "attention only"])
def test_what_is_held_keeps_the_value_of_the_run_that_is_patched(kind, freeze):
    model = double(kind)
    for i, (site, over) in enumerate([("resid_pre", "pos"), ("z", "head"), ("q", "position"), ("pattern", "q_pos")]):
        for direction in DIRECTIONS[i % 2 :]:
            asked = Asked(site, ("layer", over), freeze=freeze, direction=direction)
            assert_equals_the_loop(model, prompts_of((5, 4) if over in ("head", "position") else (5,)), asked, limit=3)


@pytest.mark.parametrize("site", ["attn_in", "q_input", "k_input", "v_input"])
@pytest.mark.parametrize("length", [4, 6])  # as many positions as heads, and more
def test_scales_are_held_for_each_head_that_reads_by_itself(site, length):
    asked = Asked(site, ("layer", "head", "pos"), freeze=("ln_scale",))
    assert_equals_the_loop(double("gpt2"), prompts_of((length, length)), asked, limit=8)


@pytest.mark.parametrize("lengths", [(6, 6, 6), (3, 7, 1, 5)])
@pytest.mark.parametrize("site", ["resid_pre", "z", "v", "mlp_out", "post"])
def test_named_positions_are_each_prompt_s_own(site, lengths):
    prompts = prompts_of(lengths, same=(0, 2, 0, 5)[: len(lengths)])
    found = assert_equals_the_loop(double("partly rotary"), prompts, Asked(site, ("position", "layer")))
    assert found.dataset["position"].values.tolist() == ["first", "early", "end"]


@given(drawn_questions())
@settings(max_examples=40)
def test_whatever_is_asked_equals_the_loop(drawn):
    model, prompts, asked = question_of(drawn)
    assert_equals_the_loop(model, prompts, asked, limit=5)


@pytest.mark.slow
@pytest.mark.long
@given(drawn_questions())
@settings(max_examples=300)
def test_whatever_is_asked_equals_the_loop_very_often(drawn):
    model, prompts, asked = question_of(drawn)
    assert_equals_the_loop(model, prompts, asked, limit=10)
