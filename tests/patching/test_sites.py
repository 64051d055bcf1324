"""Names of sites, where they lie, and over which axes they can be patched."""

import pytest

from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.hooks.names import AXES, short_name
from pellucid.patching.entries import _PREPARED
from pellucid.patching.sites import KINDS, axes_of, check_over, layers_of, point, site_name
from tests.models import CONFIGS, encoder_decoder_of, model_of


def test_every_activation_is_a_site_and_every_preparation_is_there():
    decoders = {short_name(name) for kind in CONFIGS for name in model_of(kind).hook_names}
    others = {short_name(name) for name in encoder_decoder_of().hook_names} - decoders
    assert {site.rpartition(".")[2] for site in KINDS} == set(AXES) - others == decoders
    assert {kind.prepared for kind in KINDS.values()} - {""} == set(_PREPARED)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_points_of_all_sites_are_those_of_the_model(kind):
    names = model_of(kind).hook_names
    found = []
    for site in KINDS:
        try:
            found += [point(site, layer) for layer in layers_of(site, names)]
        except UnknownNameError:
            continue
    assert sorted(found) == sorted(names)


def test_names_are_read_in_every_form_that_people_know():
    assert [site_name(name) for name in ("hook_z", "attn", "ln2.hook_scale", "mlp_post")] == [
        *("z", "pattern", "ln2.scale", "post")
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resid", "site must be the short name of an activation, got 'resid'; nearest: resid_pre"),
        ("scale", "got 'scale'; there is: ln1.scale, ln2.scale, ln_final.scale"),
        ("blocks.0.hook_z", "got 'blocks.0.hook_z'"),
    ],
)
def test_what_is_no_site_is_refused(name, message):
    with pytest.raises(UnknownNameError, match=message):
        site_name(name)


def test_a_site_that_the_model_lacks_is_refused():
    with pytest.raises(
        UnknownNameError,
        match="site must be one that this model has, got 'mlp_out'; there is: embed, pos_embed, resid_pre",
    ):
        layers_of("mlp_out", model_of("attention only").hook_names)


@pytest.mark.parametrize(
    ("over", "sites", "grouped", "message"),
    [
        (("layer", "layer"), ("z",), False, "over must name each axis once, got layer, layer"),
        (
            ("neuron",),
            ("z",),
            False,
            "over must name axes of z, which are layer, position, pos, head, group, got 'neuron'",
        ),
        (("pos",), ("pattern",), False, "got 'pos'; take q_pos"),
        (("head",), ("k",), True, "got 'head'; take kv_head"),
        (("pos", "position"), ("z",), False, "over must have one of pos, position, got both; leave one out"),
        (("head", "kv_head"), ("k",), False, "over must have one of head, kv_head, got both"),
        (("layer",), ("embed",), False, "over must name axes of embed, which are position, pos, group, got 'layer'"),
    ],
)
def test_axes_that_do_not_tell_cells_apart_are_refused(over, sites, grouped, message):
    with pytest.raises(ArgumentError, match=message):
        check_over(over, sites, layered=sites != ("embed",), grouped=grouped)


def test_as_many_key_value_heads_as_heads_may_be_called_heads():
    check_over(("layer", "head", "pos"), ("k",), layered=True, grouped=False)
    assert axes_of("k") == ("batch", "pos", "kv_head", "d_head")
