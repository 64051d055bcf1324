"""Hooks that stand on a model until they are reset, on the model and on a point."""

import copy
import pickle

import pytest
import torch

from pellucid import HookPoint
from pellucid.base.errors import ArgumentError
from tests.models import model_of, tokens_of, unchecked

TOKENS = tokens_of()
Z0 = "blocks.0.attn.hook_z"


@pytest.fixture
def model():
    return model_of("gpt2")


def doubled(x, hook):
    return 2 * x


def names(model):
    """Where forward hooks stand."""
    return [name for name, point in model.hook_dict.items() for _ in point.fwd_hooks]


def test_a_standing_hook_joins_calls_runs_caches_and_generation(model):
    seen = []
    model.add_hook(Z0, lambda x, hook: seen.append(x.shape[1]))
    model(TOKENS)
    model.run(TOKENS)
    model.run_with_cache(TOKENS, names_filter="hook_embed")
    model.run_with_hooks(TOKENS)
    model.generate(TOKENS, max_new_tokens=2, verbose=False)
    assert seen == [7, 7, 7, 7, 7, 1]


def test_what_stands_on_the_model_and_on_its_point_is_one(model):
    model.add_hook(Z0, doubled)
    model.blocks[1].attn.hook_z.add_hook(doubled)
    assert names(model) == [Z0, "blocks.1.attn.hook_z"]
    assert model.hook_dict[Z0].fwd_hooks == [doubled]
    model.blocks[0].attn.hook_z.remove_hooks()
    assert names(model) == ["blocks.1.attn.hook_z"]
    model.reset_hooks()
    assert names(model) == []


def test_the_effect_of_a_standing_hook_is_that_of_the_same_hook_given_to_a_run(model):
    given = model.run_with_hooks(TOKENS, fwd_hooks=[(Z0, doubled)])
    plain = model.run_with_cache(TOKENS)[0]
    model.blocks[0].attn.hook_z.add_hook(doubled)
    assert torch.equal(model(TOKENS), given)
    model.reset_hooks()
    assert torch.equal(model.run_with_cache(TOKENS)[0], plain)


def test_permanent_hooks_survive_a_reset_unless_it_includes_them(model):
    model.add_perma_hook(Z0, doubled)
    model.blocks[1].attn.hook_v.add_perma_hook(doubled)
    model.add_hook("hook_embed", doubled)
    model.reset_hooks()
    assert names(model) == [Z0, "blocks.1.attn.hook_v"] or names(model) == ["blocks.1.attn.hook_v", Z0]
    model.reset_hooks(including_permanent=True)
    assert names(model) == []


def test_a_point_s_own_removal_spares_permanent_hooks_too(model):
    point = model.hook_dict[Z0]
    point.add_perma_hook(doubled)
    point.add_hook(doubled)
    point.remove_hooks()
    assert point.fwd_hooks == [doubled]
    point.remove_hooks(including_permanent=True)
    assert point.fwd_hooks == []


def test_a_reset_can_take_one_direction_only(model):
    point = model.hook_dict[Z0]
    model.add_hook(Z0, doubled, dir="bwd")
    model.add_hook(Z0, doubled, dir="fwd")
    assert (point.fwd_hooks, point.bwd_hooks) == ([doubled], [doubled])
    model.reset_hooks(direction="fwd")
    assert (point.fwd_hooks, point.bwd_hooks) == ([], [doubled])
    point.remove_hooks("fwd")
    assert point.bwd_hooks == [doubled]
    point.remove_hooks("both")
    assert point.bwd_hooks == []
    model.add_perma_hook(Z0, doubled, dir="bwd")
    model.reset_hooks(direction="bwd", including_permanent=True)
    assert model.board == []


def test_a_reset_can_take_one_level_only(model):
    for level in (1, 2, None):
        model.add_hook("hook_embed", doubled, level=level)
    model.reset_hooks(level=1)
    assert [standing.level for standing in model.board] == [2, None]
    model.hook_dict["hook_embed"].remove_hooks(level=2)
    assert [standing.level for standing in model.board] == [None]


def test_a_reset_forgets_contexts_unless_told_not_to(model):
    model.hook_dict[Z0].ctx["x"] = 1
    model.reset_hooks(clear_contexts=False)
    assert model.hook_dict[Z0].ctx == {"x": 1}
    model.reset_hooks()
    assert model.hook_dict[Z0].ctx == {}


def test_a_prepended_hook_acts_before_those_that_stand_already(model):
    order = []
    for number, prepend in ((1, False), (2, False), (3, True)):
        model.add_hook(Z0, lambda x, hook, number=number: order.append(number), prepend=prepend)
    model(TOKENS)
    assert order == [3, 1, 2]


def test_standing_hooks_act_before_those_of_the_run(model):
    order = []
    model.add_hook(Z0, lambda x, hook: order.append("standing"))
    model.run_with_hooks(TOKENS, fwd_hooks=[(Z0, lambda x, hook: order.append("run"))])
    assert order == ["standing", "run"]


def test_a_direction_that_is_none_is_refused(model):
    with unchecked(), pytest.raises(ArgumentError, match="dir must be 'fwd' or 'bwd', got 'forward'"):
        model.hook_dict[Z0].add_hook(doubled, dir="forward")


def test_hooks_added_to_a_point_before_it_has_a_model_stand_on_the_model_afterwards(model):
    point = HookPoint()
    point.add_hook(doubled)
    model.blocks[0].attn.hook_z = point
    model.setup()
    assert names(model) == [Z0]
    model.setup()
    assert names(model) == [Z0]


def test_a_point_alone_gives_back_what_it_gets():
    x = torch.ones(2)
    assert HookPoint()(x) is x


def test_points_have_no_parameters_and_show_their_names(model):
    assert all(not list(point.parameters()) and not list(point.buffers()) for point in model.hook_points())
    assert f"HookPoint({Z0})" in repr(model)
    assert [point.name for point in model.hook_points()] == model.hook_names


def test_every_name_is_the_path_of_its_point_in_the_module_tree(model):
    for name, point in model.hook_dict.items():
        assert model.get_submodule(name) is point


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copied_model_has_hooks_of_its_own(model, copied):
    model.add_hook(Z0, doubled)
    other = copied(model)
    assert names(other) == [Z0]
    assert torch.equal(other(TOKENS), model(TOKENS))
    other.reset_hooks()
    other.blocks[0].attn.hook_v.add_hook(doubled)
    assert names(model) == [Z0]
    assert names(other) == ["blocks.0.attn.hook_v"]
    assert other.hook_dict["blocks.0.attn.hook_v"] is other.blocks[0].attn.hook_v


@pytest.mark.parametrize("add", [lambda m: m.add_hook("z", 3), lambda m: m.hook_dict[Z0].add_hook(3)])
def test_a_standing_hook_is_a_function(model, add):
    with unchecked(), pytest.raises(ArgumentError, match=r"a hook must be a function, called as .*, got 3"):
        add(model)
    assert model.board == []


def test_a_reset_in_no_direction_is_refused(model):
    for reset in (lambda: model.reset_hooks(direction="forward"), lambda: model.hook_dict[Z0].remove_hooks("forward")):
        with unchecked(), pytest.raises(ArgumentError, match="must be 'fwd', 'bwd' or 'both', got 'forward'"):
            reset()
