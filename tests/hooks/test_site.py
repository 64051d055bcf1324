"""A site: which activation, which part of it."""

import numpy as np
import pytest
import torch

from pellucid import Site
from pellucid.base.errors import ArgumentError, UnknownNameError
from tests.models import model_of, unchecked

KNOWN = model_of("gpt2").hook_names


def test_a_site_without_layer_lies_at_every_layer_that_has_the_activation():
    assert Site("z").points(KNOWN) == ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]
    assert Site("embed").points(KNOWN) == ["hook_embed"]


@pytest.mark.parametrize("layer", [1, -1, [1], (1,), range(1, 2)])
def test_layers_are_numbers_or_lists_of_them(layer):
    assert Site("mlp_out", layer=layer).points(KNOWN) == ["blocks.1.hook_mlp_out"]


def test_a_full_name_is_a_site_of_one_point():
    assert Site("blocks.1.ln1.hook_scale").points(KNOWN) == ["blocks.1.ln1.hook_scale"]
    assert Site("blocks.1.attn.hook_z", layer=1).points(KNOWN) == ["blocks.1.attn.hook_z"]
    assert Site("z", layer=[0, 1], head=2).at_point("blocks.1.attn.hook_z") == Site("blocks.1.attn.hook_z", head=2)


@pytest.mark.parametrize("short", ["attn", "hook_pattern", "blocks.0.attn.hook_pattern", "pattern"])
def test_a_site_knows_its_axes(short):
    assert Site(short).axes == ("batch", "head", "q_pos", "k_pos")


def test_the_part_that_a_site_means_keeps_every_axis():
    x = torch.arange(2 * 5 * 4 * 3).view(2, 5, 4, 3)
    assert torch.equal(Site("z").of(x), x)
    assert torch.equal(Site("z", pos=1, head=-1).of(x), x[:, 1:2, 3:])
    assert torch.equal(Site("z", pos=-5).of(x), x[:, :1])
    assert torch.equal(Site("z", head=[3, 0]).of(x), x[:, :, [3, 0]])
    assert torch.equal(Site("z", pos=slice(1, None, 2)).of(x), x[:, 1::2])
    assert torch.equal(Site("z", pos=[4, 0], head=[1, -1]).of(x), x[:, [4, 0]][:, :, [1, 3]])
    assert torch.equal(Site("z", pos=slice(2, 4), head=[1, 2, 0]).of(x), x[:, 2:4][:, :, [1, 2, 0]])
    assert torch.equal(Site("z", pos=[4, 0], head=[1, 2]).of(x), x[:, [4, 0]][:, :, [1, 2]])


def test_one_part_may_be_taken_of_values_on_another_device():
    index = Site("z", pos=[4, 0], head=[1, 2]).index((2, 5, 4, 3))
    assert torch.empty(2, 5, 4, 3, device="meta")[index].shape == (2, 2, 2, 3)


@pytest.mark.parametrize(
    "name, where, said",
    [
        (
            "z",
            {"q_pos": 1},
            "q_pos must be an axis of 'z', whose axes are batch pos head d_head, got q_pos=1; .* or give pos",
        ),
        ("pattern", {"pos": 1}, "pos must be an axis of 'pattern', .*; leave it out or give q_pos"),
        ("v", {"head": 1}, "head must be an axis of 'v', .*; leave it out or give kv_head"),
        ("q", {"kv_head": 1}, "kv_head must be an axis of 'q', .*; leave it out or give head"),
        ("resid_pre", {"head": [0]}, "head must be an axis of 'resid_pre', whose axes are batch pos d_model"),
        (
            "blocks.1.attn.hook_z",
            {"layer": 2},
            "layer must be the one in 'blocks.1.attn.hook_z', got layer=2; leave it out",
        ),
    ],
)
def test_a_part_that_the_activation_has_not_is_refused(name, where, said):
    with pytest.raises(ArgumentError, match=said):
        Site(name, **where)


@pytest.mark.parametrize(
    "where, said",
    [
        ({"head": 4}, r"head must lie in 0\.\.3, got 4"),
        ({"pos": [0, 5]}, r"pos must lie in 0\.\.4, got 5"),
        ({"pos": -6}, r"pos must lie in 0\.\.4, got -6"),
        ({"pos": slice(99, 100)}, r"pos must mean at least one of 0\.\.4, got slice\(99, 100, None\); leave it out"),
        ({"head": []}, r"head must mean at least one of 0\.\.3, got \[\]"),
        ({"pos": "end"}, "pos must be a number here, got the name 'end'; only pairs of prompts name positions"),
    ],
)
def test_an_index_outside_is_refused_when_the_shape_is_known(where, said):
    with pytest.raises(ArgumentError, match=said):
        Site("z", **where).index((2, 5, 4, 3))


@pytest.mark.parametrize("name, nearest", [("patern", "pattern"), ("resid_prev", "resid_pre")])
def test_an_unknown_activation_is_refused_with_the_nearest(name, nearest):
    with pytest.raises(UnknownNameError, match=f"no hook point is named '{name}'; nearest: (hook_)?{nearest}"):
        Site(name)


def test_a_layer_that_the_model_has_not_is_refused():
    with pytest.raises(UnknownNameError, match="no hook point is named 'blocks.2.attn.hook_z'"):
        Site("z", layer=[0, 2]).points(KNOWN)


@pytest.mark.parametrize("head", [np.int64(2), np.array(2), torch.tensor(2), [np.int64(2)], [torch.tensor(2)]])
def test_numbers_of_numpy_and_torch_are_numbers(head):
    x = torch.randn(2, 5, 4, 3)
    assert torch.equal(Site("z", head=head).of(x), x[:, :, 2:3])
    assert Site("z", layer=head, head=head) == Site("z", layer=[2] if isinstance(head, list) else 2, head=head)
    assert Site("z", layer=np.int64(-1)).points(KNOWN) == ["blocks.1.attn.hook_z"]


def test_a_slice_may_run_backwards():
    x = torch.randn(2, 5, 4, 3)
    assert torch.equal(Site("z", pos=slice(None, None, -2)).of(x), x[:, [4, 2, 0]])


@pytest.mark.parametrize("head", [True, [True, False, True, False], torch.tensor([True, False]), np.bool_(True)])
def test_a_mask_is_no_index(head):
    with unchecked(), pytest.raises(ArgumentError, match="head must be given by number, got the boolean True"):
        Site("z", head=head)


def test_an_index_is_whole():
    with unchecked(), pytest.raises(ArgumentError, match="layer must be a whole number, several, or a slice, got 1.5"):
        Site("z", layer=1.5)
