"""Stacks of what was written into the stream: their sums, their labels, and each against a plain loop."""

import pytest
import torch

from pellucid import ActivationCache, LayerNorm
from pellucid.base.errors import ArgumentError, MisreadWarning, TokenError, UnknownNameError
from tests.models import CONFIGS, config_of, model_of, tokens_of, unchecked

SLICES = [None, -1, [1, 3], slice(2, 5)]
FOLDED = config_of(norm=LayerNorm(affine=False), unembed_bias=True)


def made(kind="gpt2", **how):
    """(model, cache) of a run in float64."""
    model = model_of(kind, dtype=torch.float64)
    return model, model.run_with_cache(tokens_of(kind), **how)[1]


def at(x, pos_slice):
    return x if pos_slice is None else x[:, pos_slice]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def stream_of(model, cache, layer, mlp_input=False):
    n = model.config.n_layers
    if layer in (None, -1, n):
        return cache["resid_post", n - 1]
    return cache["resid_mid" if mlp_input else "resid_pre", layer]


def places(config):
    found = [(layer, False) for layer in (None, -1, *range(config.n_layers + 1))]
    return found + [(layer, True) for layer in range(config.n_layers)] if config.mlp is not None else found


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("pos_slice", SLICES)
def test_whatever_takes_the_stream_apart_sums_to_it(kind, pos_slice):
    model, cache = made(kind)
    for layer, mlp_input in places(model.config):
        expected = at(stream_of(model, cache, layer, mlp_input), pos_slice)
        common = {"layer": layer, "mlp_input": mlp_input, "pos_slice": pos_slice}
        close(cache.decompose_resid(**common).sum(0), expected)
        close(cache.get_full_resid_decomposition(**common).sum(0), expected)
        close(cache.get_full_resid_decomposition(expand_neurons=False, **common).sum(0), expected)
        if not mlp_input:
            close(cache.stack_head_results(layer, incl_remainder=True, pos_slice=pos_slice).sum(0), expected)
            if model.config.mlp is not None:
                close(cache.stack_neuron_results(layer, pos_slice, incl_remainder=True).sum(0), expected)


@pytest.mark.parametrize("kind", CONFIGS)
def test_so_it_is_without_a_batch_axis_and_from_few_activations(kind):
    model = model_of(kind, dtype=torch.float64)
    names = ["embed", "z", "resid_pre", "resid_post", "ln_final.hook_scale"]
    names += ["pos_embed"] if any("pos_embed" in name for name in model.hook_names) else []
    names += ["post", "resid_mid"] if model.config.mlp is not None else []
    names = [name for name in names if name != "ln_final.hook_scale" or model.config.norm is not None]
    _, cache = model.run_with_cache(tokens_of(kind, batch=1), names_filter=names, remove_batch_dim=True)
    found = cache.get_full_resid_decomposition(pos_slice=2, apply_ln=True)
    x = cache["resid_post", -1][2]
    x = x - x.mean() if isinstance(model.config.norm, LayerNorm) else x
    close(found.sum(0), x if model.config.norm is None else x / cache["scale"][2])


def test_the_states_of_the_stream_are_those_of_the_run():
    _, cache = made()
    stack, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    assert labels == ["0_pre", "0_mid", "1_pre", "1_mid", "final_post"]
    names = [("resid_pre", 0), ("resid_mid", 0), ("resid_pre", 1), ("resid_mid", 1), ("resid_post", 1)]
    assert torch.equal(stack, torch.stack([cache[name] for name in names]))
    stack, labels = cache.accumulated_resid(1, mlp_input=True, pos_slice=-1, return_labels=True)
    assert labels == ["0_pre", "1_pre", "1_mid"]
    assert torch.equal(stack, torch.stack([cache[name][:, -1] for name in (names[0], names[2], names[3])]))
    _, labels = made("attention only")[1].accumulated_resid(incl_mid=True, return_labels=True)
    assert labels == ["0_pre", "1_pre", "final_post"]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("pos_slice", SLICES)
def test_the_final_norm_of_the_last_state_gives_the_logits(kind, pos_slice):
    model, cache = made(kind)
    normed = cache.accumulated_resid(apply_ln=True, pos_slice=pos_slice)
    close(normed[-1] @ model.W_U + model.b_U, at(model(tokens_of(kind)), pos_slice))
    x = at(cache["resid_pre", 1], pos_slice)
    close(normed[1], model.ln_final(x))


def test_of_a_layers_input_the_scale_is_that_of_the_run():
    _, cache = made()
    for mlp_input, ln, last in ((False, "ln1", "resid_pre"), (True, "ln2", "resid_mid")):
        stack = cache.accumulated_resid(1, apply_ln=True, mlp_input=mlp_input)
        x = cache[last, 1]
        close(stack[-1], (x - x.mean(-1, keepdim=True)) / cache["scale", 1, ln])
        parts = cache.decompose_resid(1, mlp_input=mlp_input, apply_ln=True)
        close(parts.sum(0), stack[-1])


def test_what_each_part_wrote_bears_its_name():
    _, cache = made()
    stack, labels = cache.decompose_resid(1, mlp_input=True, return_labels=True)
    assert labels == ["embed", "pos_embed", "0_attn_out", "0_mlp_out", "1_attn_out"]
    assert torch.equal(stack[3], cache["mlp_out", 0])
    for mode, expected in (("mlp", ["0_mlp_out", "1_mlp_out"]), ("attn", ["0_attn_out", "1_attn_out"])):
        assert cache.decompose_resid(mode=mode, incl_embeds=False, return_labels=True)[1] == expected
    assert cache.decompose_resid(0, mode="mlp", incl_embeds=False).shape == (0, 2, 7, 10)
    assert made("attention only")[1].decompose_resid(return_labels=True)[1] == ["embed", "0_attn_out", "1_attn_out"]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "attention only"])
def test_heads_are_stacked_layer_by_layer(kind):
    model, cache = made(kind)
    stack, labels = cache.stack_head_results(return_labels=True)
    assert labels == [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
    for i, (layer, head) in enumerate((layer, head) for layer in range(2) for head in range(4)):
        close(stack[i], cache["z", layer][:, :, head] @ model.blocks[layer].attn.W_O[head])
    stack, labels = cache.stack_head_results(1, True, True)
    assert labels == ["L0H0", "L0H1", "L0H2", "L0H3", "remainder"]
    assert cache.stack_head_results(0).shape == (0, 2, 7, 10)
    assert torch.equal(cache.stack_head_results(0, incl_remainder=True)[0], cache["resid_pre", 0])


def test_head_results_are_kept_if_asked_for():
    model, cache = made()
    assert ("result", 0) not in cache
    cache.stack_head_results()
    assert ("result", 0) not in cache
    assert cache.compute_head_results() is None
    close(cache["result", 1].sum(2) + model.b_O[1], cache["attn_out", 1])
    close(cache["result", 1], model.run_with_cache(tokens_of(), names_filter=["result"])[1]["result", 1])
    assert torch.equal(cache.stack_head_results()[5], cache["result", 1][:, :, 1])


@pytest.mark.parametrize("neuron_slice", [None, [1, -4], slice(0, 3), 2])
def test_neurons_are_stacked_layer_by_layer(neuron_slice):
    model, cache = made("llama")
    chosen = list(range(14))[neuron_slice or slice(None)] if not isinstance(neuron_slice, list | int) else [1, 10]
    chosen = [2] if neuron_slice == 2 else chosen
    stack, labels = cache.stack_neuron_results(-1, -1, neuron_slice, return_labels=True)
    assert labels == [f"L{layer}N{neuron}" for layer in range(2) for neuron in chosen]
    for i, (layer, neuron) in enumerate((layer, neuron) for layer in range(2) for neuron in chosen):
        close(stack[i], cache["post", layer][:, -1, neuron, None] * model.blocks[layer].mlp.W_out[neuron])
    results = cache.get_neuron_results(-1, neuron_slice, -1)
    close(results if neuron_slice != 2 else results[:, None], stack[len(chosen) :].movedim(0, -2))


def test_the_full_stack_is_named():
    _, cache = made()
    _, labels = cache.get_full_resid_decomposition(1, mlp_input=True, return_labels=True)
    heads = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
    assert labels == [*heads, *(f"L0N{i}" for i in range(14)), "embed", "pos_embed", "bias"]
    _, labels = cache.get_full_resid_decomposition(expand_neurons=False, return_labels=True)
    assert labels == [*heads, "0_mlp_out", "1_mlp_out", "embed", "pos_embed", "bias"]
    stack, labels = cache.get_full_resid_decomposition(0, return_labels=True)
    assert labels == ["embed", "pos_embed", "bias"] and not stack[-1].any()


def test_one_activation_of_all_layers():
    _, cache = made()
    assert torch.equal(cache.stack_activation("z"), torch.stack([cache["z", 0], cache["z", 1]]))
    assert torch.equal(cache.stack_activation("scale", 1, "ln2")[0], cache["scale", 0, "ln2"])
    with pytest.raises(ArgumentError, match="a stack of 'z' needs one layer or more before layer, got none"):
        cache.stack_activation("z", 0)


# Logits


@pytest.mark.parametrize("pos_slice", SLICES)
def test_what_each_part_adds_to_a_logit_sums_to_it(pos_slice):
    model, cache = made(FOLDED)
    logits = at(model(tokens_of(FOLDED)), pos_slice) - model.b_U
    stack = cache.get_full_resid_decomposition(pos_slice=pos_slice)
    close(cache.logit_attrs(stack, 3, pos_slice=pos_slice).sum(0), logits[..., 3])
    close(cache.logit_attrs(stack, 3, 4, pos_slice=pos_slice).sum(0), logits[..., 3] - logits[..., 4])
    ids = at(tokens_of(FOLDED, seed=1), pos_slice)
    expected = logits.gather(-1, ids[..., None])[..., 0]
    close(cache.logit_attrs(stack, ids, pos_slice=pos_slice).sum(0), expected)
    each = torch.tensor([5, 6])
    expected = torch.stack([logits[0, ..., 5], logits[1, ..., 6]])
    close(cache.logit_attrs(stack, each, pos_slice=pos_slice).sum(0), expected)


@pytest.mark.parametrize("kind", [FOLDED, "bare"])
def test_some_prompts_of_a_stack(kind):
    _, cache = made(kind)
    stack, ids = cache.decompose_resid(), tokens_of(kind, seed=1)
    whole = cache.logit_attrs(stack, ids)
    assert torch.equal(cache.logit_attrs(stack, ids[[1]], batch_slice=[1]), whole[:, [1]])
    assert torch.equal(cache.logit_attrs(stack, ids[1], batch_slice=1), whole[:, 1])
    if kind != "bare":
        assert torch.equal(cache.logit_attrs(stack[:, 1], ids[1], batch_slice=1, has_batch_dim=False), whole[:, 1])


def test_a_norm_that_was_not_folded_is_told():
    _, cache = made("gpt2")
    with pytest.warns(MisreadWarning, match="the final norm has a w of its own, which logit_attrs leaves out.*fold_ln"):
        cache.logit_attrs(cache.decompose_resid(), 3)


def test_tokens_must_fit_the_stack():
    _, cache = made(FOLDED)
    stack = cache.decompose_resid()
    with pytest.raises(ArgumentError, match=r"tokens must be one, or as many as the stack .*\[2, 7\], got \[3\]"):
        cache.logit_attrs(stack, torch.tensor([1, 2, 3]))
    with pytest.raises(
        ArgumentError, match=r"tokens and incorrect_tokens must have the same shape, got \[2\] and \[\]"
    ):
        cache.logit_attrs(stack, torch.tensor([1, 2]), 3)
    with pytest.raises(TokenError, match="token ids must lie in 0..16, got 17"):
        cache.logit_attrs(stack, 17)


# What cannot be


def test_the_weights_are_needed():
    _, cache = made()
    with pytest.raises(ArgumentError, match="taking the stream apart needs the model's weights, and this cache knows"):
        ActivationCache(cache.cache_dict).stack_head_results()


def test_what_there_is_not_is_refused():
    _, cache = made()
    with pytest.raises(ArgumentError, match=r"layer must lie in 0\.\.2, or be -1 or None for the final stream, got 3"):
        cache.decompose_resid(3)
    with pytest.raises(ArgumentError, match="mlp_input needs a layer with an MLP, got layer 2, and the final stream"):
        cache.accumulated_resid(mlp_input=True)
    with pytest.raises(UnknownNameError, match="mode must be all, mlp or attn, got 'atn'; nearest: attn"):
        cache.decompose_resid(mode="atn")
    with pytest.raises(ArgumentError, match=r"layer must lie in 0\.\.1, got 2"):
        cache.get_neuron_results(2)
    with pytest.raises(ArgumentError, match=r"neuron_slice must lie in 0\.\.13, got 14"):
        cache.get_neuron_results(0, 14)
    with unchecked(), pytest.raises(ArgumentError, match=r"a position must lie in 0\.\.6, got 7"):
        cache.decompose_resid(pos_slice=7)


def test_gradients_flow_where_the_cache_kept_them_and_nowhere_else():
    model = model_of("gpt2")
    _, cache = model.run_with_cache(tokens_of())
    assert not cache.accumulated_resid(apply_ln=True).requires_grad
    assert not cache.stack_neuron_results(-1).requires_grad
    _, cache = model.run_with_cache(tokens_of(), keep_graph=True)
    assert cache.accumulated_resid(apply_ln=True).requires_grad
    assert cache.stack_head_results().requires_grad
