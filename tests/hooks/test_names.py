"""How a filter becomes a list of hook points."""

import warnings

import numpy as np
import pytest

from pellucid.base.errors import ArgumentError, MisreadWarning, UnknownNameError
from pellucid.hooks.names import AXES, ON_DEMAND, axes, get_act_name, layer_of, select, short_name
from tests.models import CONFIGS, encoder_decoder_of, model_of, tokens_of, unchecked

KNOWN = model_of("gpt2").hook_names


def only(*, short):
    return [name for name in KNOWN if short_name(name) == short]


@pytest.mark.parametrize(
    "given, full",
    [
        (("embed",), "hook_embed"),
        (("resid_post", 23), "blocks.23.hook_resid_post"),
        (("pattern", 5, "attn"), "blocks.5.attn.hook_pattern"),
        (("pattern", 5, "a"), "blocks.5.attn.hook_pattern"),
        (("attn", 2), "blocks.2.attn.hook_pattern"),
        (("attn_logits", 1), "blocks.1.attn.hook_attn_scores"),
        (("key", 1), "blocks.1.attn.hook_k"),
        (("mlp_post", 0), "blocks.0.mlp.hook_post"),
        (("post", 0), "blocks.0.mlp.hook_post"),
        (("normalized", 27, "ln2"), "blocks.27.ln2.hook_normalized"),
        (("k6",), "blocks.6.attn.hook_k"),
        (("scale4ln1",), "blocks.4.ln1.hook_scale"),
        (("pre5",), "blocks.5.mlp.hook_pre"),
        (("normalized",), "ln_final.hook_normalized"),
        (("mlp_in", 3), "blocks.3.hook_mlp_in"),
        (("blocks.3.hook_mlp_in",), "blocks.3.hook_mlp_in"),
        (("hook_embed",), "hook_embed"),
    ],
)
def test_a_shorthand_is_a_full_name(given, full):
    assert get_act_name(*given) == full


def test_a_full_name_tells_its_layer_and_its_short_name():
    assert layer_of("blocks.12.attn.hook_q") == 12
    assert layer_of("ln_final.hook_scale") is None
    assert short_name("blocks.12.attn.hook_rot_q") == "rot_q"


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_axes_of_every_activation_are_as_the_list_says(kind):
    model, tokens = model_of(kind), tokens_of(kind, batch=3, pos=5)
    config = model.config
    sizes = {"batch": 3, "pos": 5, "q_pos": 5, "k_pos": 5, "head": 4, "kv_head": config.attention.kv_heads}
    sizes |= {"d_head": 6, "d_model": 10, "neuron": 14, "scale": 1}
    cache = model.run(tokens, reads=model.hook_names).cache
    for name, x in cache.items():
        assert x.shape == tuple(sizes[axis] for axis in axes(name)), name


def test_the_models_have_every_activation_that_is_listed():
    models = [*map(model_of, CONFIGS), encoder_decoder_of("gpt2")]
    found = {short_name(name) for model in models for name in model.hook_names}
    assert found == set(AXES)


def test_the_axes_of_a_gradient_are_those_of_its_activation():
    assert axes("blocks.0.attn.hook_q_grad") == axes("blocks.0.attn.hook_q")


def test_none_means_everything_but_points_on_demand():
    assert select(KNOWN, None) == [name for name in KNOWN if short_name(name) not in ON_DEMAND]


def test_a_name_means_one_point_and_a_short_name_every_layer():
    assert select(KNOWN, "blocks.1.attn.hook_q") == ["blocks.1.attn.hook_q"]
    assert select(KNOWN, "pattern") == ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_pattern"]
    assert select(KNOWN, "hook_pattern") == select(KNOWN, "attn") == select(KNOWN, "pattern")
    assert select(KNOWN, "k1") == ["blocks.1.attn.hook_k"]
    assert len(select(KNOWN, "scale")) == 5


def test_a_list_gives_each_point_once_in_the_tree_s_order():
    found = select(KNOWN, [("z", 1), "z", "hook_embed", ("z", -1, "attn")])
    assert found == ["hook_embed", "blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]


def test_negative_layers_count_from_the_last():
    assert select(KNOWN, ("q", -2)) == ["blocks.0.attn.hook_q"]


@pytest.mark.parametrize("short", sorted(ON_DEMAND))
def test_points_on_demand_are_found_by_every_way_of_naming_them(short):
    full = get_act_name(short, 1)
    assert select(KNOWN, full) == select(KNOWN, [full]) == select(KNOWN, (short, 1)) == [full]
    assert select(KNOWN, short) == only(short=short)
    assert select(KNOWN, lambda name: name == full) == [full]


def test_a_callable_that_accepts_more_leaves_points_on_demand_out():
    assert select(KNOWN, lambda name: True) == select(KNOWN, None)
    assert select(KNOWN, lambda name: name.startswith("blocks.0.attn")) == [
        name for name in KNOWN if name.startswith("blocks.0.attn") and not name.endswith("result")
    ]


def test_a_hook_filter_that_accepts_points_on_demand_among_others_warns():
    with pytest.warns(MisreadWarning, match="takes_all also accepts .*mlp_in.*result.* left out"):

        def takes_all(name):
            return True

        select(KNOWN, takes_all, warn=True)


def test_a_hook_filter_that_accepts_points_on_demand_alone_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert select(KNOWN, lambda name: "_input" in name, warn=True)


@pytest.mark.parametrize(
    "wanted, said",
    [
        ("blocks.0.attn.hook_patern", "'blocks.0.attn.hook_patern'; nearest: blocks.0.attn.hook_pattern"),
        ("patern", "nearest: pattern"),
        ("blocks.7.attn.hook_q", "nearest: .*blocks.*attn.hook_q"),
        (("pattern", 7), "'blocks.7.attn.hook_pattern' .from .'pattern', 7..; nearest: "),
        (("pattern", -3), "no hook point is named"),
        (["z", "zz"], "no hook point is named 'zz'"),
        ("", "no hook point is named ''"),
        (
            lambda name: False,
            "must accept at least one hook point, but .*lambda.* accepted none of [0-9]+; names read like",
        ),
        ([], "at least one hook point"),
        ([7], "named by a string, a shorthand such as .* or a callable, got 7"),
    ],
)
def test_what_means_no_point_is_an_error_that_offers_the_nearest(wanted, said):
    with pytest.raises(UnknownNameError, match=said), unchecked():
        select(KNOWN, wanted)


def test_a_model_without_mlp_has_no_point_in_it():
    model = model_of("attention only")
    with pytest.raises(UnknownNameError, match="blocks.0.mlp.hook_post"):
        model.run_with_cache(tokens_of(), names_filter="blocks.0.mlp.hook_post")
    assert not [name for name in model.hook_names if "mlp" in name or "mid" in name or "ln2" in name]


def test_several_full_names_are_a_list_and_no_tuple():
    known = ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]
    with pytest.raises(ArgumentError, match=r"a tuple must be one shorthand \(name, layer, part\), .*as a list"):
        select(known, tuple(known))
    assert select(known, known) == known
    assert select(known, ("z", np.int64(-1))) == known[1:]
    with pytest.raises(ArgumentError, match="layer must be given by number, got the boolean True"):
        select(known, ("z", True))
