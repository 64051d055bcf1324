"""Hooks on the backward pass: gradients are autograd's, what a hook gives takes their place."""

import pytest
import torch
from hypothesis import given, settings
from torch import nn

from pellucid.base.errors import ArgumentError, HookError
from pellucid.hooks.names import select, short_name
from tests.models import CONFIGS, assert_agree, configs, model_of, tokens_of
from tests.reference.literal import literal

FLOAT64 = torch.float64


def literal_loss(model, tokens, edit=None):
    """(mean cross-entropy, every value with its gradient kept) of the literal transformer."""
    kept = {}

    def keep(name):
        def edited(x):
            kept[name] = x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
            x.retain_grad()
            return (edit or {}).get(name, lambda x: x)(x)

        return edited

    on_demand = ("attn_in", "q_input", "k_input", "v_input")
    names = [name for name in model.hook_names if short_name(name) not in on_demand]
    logits, _ = literal(model, tokens, edit={name: keep(name) for name in names})
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    return loss, kept


def gradients_seen(model, tokens, names, **more):
    """What hooks on the backward pass see at some points, in the order in which it comes by them."""
    seen = {}

    def see(gradient, hook):
        seen[hook.name] = gradient

    loss = model.run_with_hooks(tokens, return_type="loss", bwd_hooks=[(name, see) for name in names], **more)
    loss.backward()
    return seen


@settings(max_examples=15)
@given(configs())
def test_gradients_at_every_point_and_parameter_equal_those_of_the_literal_transformer(config):
    model, tokens = model_of(config, dtype=FLOAT64), tokens_of(config)
    loss, kept = literal_loss(model, tokens)
    loss.backward()
    expected = {name: x.grad for name, x in kept.items() if x.grad is not None}
    of_weights = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    seen = gradients_seen(model, tokens, list(kept))
    assert_agree(seen, expected, within=1e-10)
    assert_agree({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, of_weights, within=1e-10)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_fused_and_the_explicit_pass_give_every_parameter_the_same_gradient(kind):
    model, tokens = model_of(kind, dtype=FLOAT64), tokens_of(kind)
    parameters = dict(model.named_parameters())
    fused = torch.autograd.grad(model(tokens, return_type="loss"), list(parameters.values()))
    explicit = torch.autograd.grad(model.run_with_hooks(tokens, return_type="loss"), list(parameters.values()))
    assert_agree(dict(zip(parameters, fused, strict=True)), dict(zip(parameters, explicit, strict=True)), within=1e-10)
    assert all(gradient.abs().sum() > 0 for name, gradient in zip(parameters, fused, strict=True) if "b_K" not in name)


def test_gradients_of_inputs_by_head_sum_to_that_of_what_they_read():
    model, tokens = model_of("gpt2", dtype=FLOAT64), tokens_of()
    names = [f"blocks.1.hook_{name}" for name in ("q_input", "k_input", "v_input", "attn_in")]
    seen = gradients_seen(model, tokens, names)
    by_kind = [seen[name] for name in names[:3]]
    torch.testing.assert_close(seen[names[3]], sum(by_kind))
    plain = gradients_seen(model, tokens, ["blocks.1.hook_resid_pre", "blocks.1.hook_resid_mid"])
    through_attention = plain["blocks.1.hook_resid_pre"] - plain["blocks.1.hook_resid_mid"]
    torch.testing.assert_close(seen[names[3]].sum(2), through_attention)


@pytest.mark.parametrize("way", ["returns", "returns a tuple", "in place"])
def test_what_a_backward_hook_gives_takes_the_gradient_s_place(way):
    model, tokens = model_of("gpt2", dtype=FLOAT64), tokens_of()
    name = "blocks.1.attn.hook_z"

    def change(gradient, hook):
        if way == "in place":
            gradient[:, :, 0] = 0
            return None
        gradient = gradient * torch.tensor([0.0, 1, 1, 1])[:, None]
        return (gradient,) if way == "returns a tuple" else gradient

    model.run_with_hooks(tokens, return_type="loss", bwd_hooks=[(name, change)]).backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()

    def cut(z):
        return torch.cat([z[:, :, :1].detach(), z[:, :, 1:]], dim=2)

    literal_loss(model, tokens, edit={name: cut})[0].backward()
    assert_agree(found, {name: p.grad for name, p in model.named_parameters()}, within=1e-10)


def test_backward_hooks_act_on_the_way_back_the_later_point_first():
    model, tokens = model_of("gpt2"), tokens_of()
    names = [name for name in model.run_with_cache(tokens)[1] if "pattern" in name or "resid" in name]
    seen = list(gradients_seen(model, tokens, names))
    assert seen == names[::-1]
    assert seen.index("blocks.1.hook_resid_pre") == seen.index("blocks.0.hook_resid_post") - 1


def test_of_two_points_at_one_value_the_earlier_sees_what_the_later_gave():
    model, tokens = model_of("gpt2"), tokens_of()
    seen = {}

    def hook(gradient, hook):
        seen[hook.name] = gradient.clone()
        return gradient * 2

    hooks = [("blocks.0.hook_resid_post", hook), ("blocks.1.hook_resid_pre", hook)]
    model.run_with_hooks(tokens, return_type="loss", bwd_hooks=hooks).backward()
    torch.testing.assert_close(seen["blocks.0.hook_resid_post"], 2 * seen["blocks.1.hook_resid_pre"])


def test_backward_hooks_at_one_point_see_what_each_other_gave():
    model, tokens, seen = model_of("gpt2"), tokens_of(), []

    def hook(gradient, hook):
        seen.append(gradient)
        return gradient * 2

    model.run_with_hooks(tokens, return_type="loss", bwd_hooks=[("blocks.0.hook_mlp_out", hook)] * 2).backward()
    torch.testing.assert_close(seen[1], 2 * seen[0])


def test_forward_and_backward_hooks_of_one_point_work_together():
    model, tokens = model_of("gpt2", dtype=FLOAT64), tokens_of()
    name, seen = "blocks.0.hook_mlp_out", {}
    loss = model.run_with_hooks(
        tokens,
        return_type="loss",
        fwd_hooks=[(name, lambda x, hook: 3 * x)],
        bwd_hooks=[(name, lambda gradient, hook: seen.update(found=gradient))],
    )
    loss.backward()
    expected, kept = literal_loss(model, tokens, edit={name: lambda x: 3 * x})
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(3 * seen["found"], kept[name].grad)


def test_backward_hooks_work_where_gradients_are_switched_off_which_stays_so():
    model, tokens = model_of("gpt2"), tokens_of()
    expected = gradients_seen(model, tokens, ["pattern", "hook_embed"])
    with torch.no_grad():
        seen = gradients_seen(model, tokens, ["pattern", "hook_embed"])
        assert not torch.is_grad_enabled()
        standing = {}
        with model.hooks(bwd_hooks=[("pattern", lambda gradient, hook: standing.__setitem__(hook.name, gradient))]):
            model(tokens, return_type="loss").backward()
        assert not torch.is_grad_enabled()
        assert not model(tokens).requires_grad
    assert_agree(seen, expected, within=1e-6)
    assert_agree(standing, {name: x for name, x in expected.items() if "pattern" in name}, within=1e-6)


@pytest.mark.parametrize("kind", CONFIGS)
def test_backward_hooks_work_on_frozen_parameters(kind):
    model, tokens = model_of(kind, dtype=FLOAT64), tokens_of(kind)
    expected = gradients_seen(model, tokens, [None])
    model.requires_grad_(False).zero_grad()
    seen = gradients_seen(model, tokens, [None])
    assert_agree(seen, expected, within=1e-10)
    later = gradients_seen(model, tokens, ["blocks.1.hook_resid_post"])
    assert_agree(later, {name: expected[name] for name in later}, within=1e-10)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_cache_with_gradients_has_those_that_backward_hooks_see(kind, frozen):
    model, tokens = model_of(kind, dtype=FLOAT64), tokens_of(kind)
    names = select(model.hook_names, None)
    expected = gradients_seen(model, tokens, names)
    model.requires_grad_(not frozen)
    with torch.no_grad():
        loss, cache = model.run_with_cache(tokens, return_type="loss", incl_bwd=True)
    assert {name for name in cache if not name.endswith("_grad")} == set(names)
    assert_agree({name: cache[f"{name}_grad"] for name in names}, expected, within=1e-10)
    assert not any(x.requires_grad for x in cache.values())
    torch.testing.assert_close(loss, model(tokens, return_type="loss"))


def test_a_cache_with_gradients_has_those_of_points_on_demand_if_they_are_named():
    model, tokens = model_of("gpt2", dtype=FLOAT64), tokens_of()
    names = ["blocks.1.attn.hook_result", "blocks.0.hook_q_input", "blocks.0.hook_mlp_in"]
    _, cache = model.run_with_cache(tokens, return_type="loss", incl_bwd=True, names_filter=names)
    assert_agree({name: cache[f"{name}_grad"] for name in names}, gradients_seen(model, tokens, names), within=1e-10)


def test_a_cache_with_gradients_needs_one_number_to_differentiate():
    model = model_of("gpt2")
    with pytest.raises(
        ArgumentError, match=r"incl_bwd needs one number to differentiate, got \[2, 7, 17\]; pass return_type"
    ):
        model.run_with_cache(tokens_of(), incl_bwd=True)
    with pytest.raises(ArgumentError, match="got tuple"):
        model.run_with_cache(tokens_of(), incl_bwd=True, return_type="both")


def test_a_gradient_of_another_shape_is_refused():
    model = model_of("gpt2")
    loss = model.run_with_hooks(
        tokens_of(), return_type="loss", bwd_hooks=[("blocks.0.hook_mlp_out", lambda gradient, hook: gradient[:1])]
    )
    with pytest.raises(HookError, match=r"shape at blocks.0.hook_mlp_out must stay \[2, 7, 10\], got \[1, 7, 10\]"):
        loss.backward()


def test_a_hook_may_keep_the_gradient_of_what_it_was_given():
    model, tokens, kept = model_of("gpt2", dtype=FLOAT64), tokens_of(), {}

    def keep(x, hook):
        x.retain_grad()
        kept[hook.name] = x

    model.run_with_hooks(tokens, return_type="loss", fwd_hooks=[("mlp_out", keep)]).backward()
    expected = gradients_seen(model, tokens, ["mlp_out"])
    assert_agree({name: x.grad for name, x in kept.items()}, expected, within=1e-10)


def test_second_derivatives_exist_on_the_explicit_path():
    model, tokens = model_of("llama", dtype=FLOAT64), tokens_of("llama")
    logits = model.run(tokens, attention="explicit").logits
    (first,) = torch.autograd.grad(logits.logsumexp(-1).sum(), model.blocks[0].attn.W_V, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), model.blocks[0].attn.W_Q)
    assert second.abs().sum() > 0


def test_gradients_in_inference_mode_are_refused():
    model = model_of("gpt2")
    hooks = [("z", lambda gradient, hook: None)]
    with torch.inference_mode():
        with pytest.raises(ArgumentError, match=r"need gradients, which torch.inference_mode\(\) never makes"):
            model.run_with_hooks(tokens_of(), bwd_hooks=hooks)
        with pytest.raises(ArgumentError, match="backward hooks and incl_bwd need gradients"):
            model.run_with_cache(tokens_of(), return_type="loss", incl_bwd=True)
        model.run_with_cache(tokens_of())
