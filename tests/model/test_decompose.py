"""The stream by component: sums are the stream, and each component is what it says, against literal loops."""

import pytest
import torch
from hypothesis import given, settings

from pellucid import AttentionConfig, MLPConfig
from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.model.decompose import (
    Part,
    along,
    before_norm,
    components,
    head_results,
    layer_read,
    neuron_results,
    parts,
    stream,
    written,
)
from tests.models import CONFIGS, config_of, configs, encoder_of, model_of, tokens_of


def cache_of(model, **how):
    """Every activation of a run in float64."""
    return model.run_with_cache(tokens_of(model.config, **how))[1]


def places(config):
    """Where layers read the stream: (layer, mlp_input)."""
    found = [(layer, False) for layer in range(config.n_layers + 1)]
    return found + [(layer, True) for layer in range(config.n_layers)] if config.mlp is not None else found


@settings(max_examples=30)
@given(configs())
def test_all_components_sum_to_the_stream_wherever_it_is_read(config):
    model = model_of(config, dtype=torch.float64)
    cache = cache_of(model)
    for layer, mlp_input in places(config):
        expected = stream(config, cache, layer, mlp_input=mlp_input)
        for heads in (True, False):
            for neurons in (True, False):
                found = components(model, cache, layer, mlp_input=mlp_input, heads=heads, neurons=neurons)
                assert len(found.labels) == len(found.values) == len(set(found.labels))
                torch.testing.assert_close(found.values.sum(0), expected, rtol=0, atol=1e-10)


@settings(max_examples=20)
@given(configs())
def test_along_a_direction_each_component_goes_as_far_as_its_vector(config):
    model = model_of(config, dtype=torch.float64)
    cache = cache_of(model)
    direction = torch.randn(2, 7, config.d_model, dtype=torch.float64)
    for part in parts(config):
        for split in (True, False):
            vectors, numbers = (
                written(model, cache, part, split=split),
                along(model, cache, part, direction, split=split),
            )
            assert vectors.labels == numbers.labels
            torch.testing.assert_close(numbers.values, (vectors.values * direction).sum(-1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_head_wrote_what_the_loop_says_and_so_did_a_neuron(kind):
    model = model_of(kind, dtype=torch.float64)
    cache = cache_of(model)
    for layer, block in enumerate(model.blocks):
        results = head_results(model, cache, layer)
        for head in range(model.config.attention.n_heads):
            expected = cache["z", layer][:, :, head] @ block.attn.W_O[head]
            torch.testing.assert_close(results[:, :, head], expected, rtol=0, atol=1e-12)
        if block.mlp is not None:
            results = neuron_results(model, cache, layer, [3, 5])
            for i, neuron in enumerate([3, 5]):
                expected = cache["post", layer][:, :, neuron, None] * block.mlp.W_out[neuron]
                torch.testing.assert_close(results[:, :, i], expected, rtol=0, atol=1e-12)


def test_components_bear_the_names_that_people_know():
    assert components(model_of("gpt2"), cache_of(model_of("gpt2")), 1, mlp_input=True).labels == [
        *("embed", "pos_embed", "0.0", "0.1", "0.2", "0.3", "attn0 bias"),
        *(f"L0N{i}" for i in range(14)),
        *("mlp0 bias", "1.0", "1.1", "1.2", "1.3", "attn1 bias"),
    ]
    found = components(model_of("llama"), cache_of(model_of("llama")), 1, neurons=False)
    assert found.labels == ["embed", "0.0", "0.1", "0.2", "0.3", "mlp0"]


def test_positions_are_a_part_only_where_they_are_in_the_stream():
    assert [part.label for part in parts(CONFIGS["attention only"])] == ["embed", "attn0", "attn1"]
    assert [part.label for part in parts(CONFIGS["partly rotary"], 0)] == ["embed"]


def test_without_residual_connections_the_last_part_is_all_there_is():
    assert [part.label for part in parts(CONFIGS["bare"], 0)] == ["embed"]
    assert [part.label for part in parts(CONFIGS["bare"], 1, mlp_input=True)] == ["attn1"]
    assert [part.label for part in parts(CONFIGS["bare"])] == ["mlp1"]


def test_a_result_that_was_edited_is_taken_as_it_is():
    model = model_of("gpt2", dtype=torch.float64)
    names = ["blocks.0.attn.hook_result", "blocks.0.attn.hook_z"]
    cache = model.run_with_cache(tokens_of(), names_filter=names)[1]
    cache.cache_dict[names[0]] = torch.ones_like(cache[names[0]])
    assert head_results(model, cache, 0).eq(1).all()


def test_an_encoder_is_taken_apart_as_well():
    model = encoder_of("gpt2", dtype=torch.float64)
    _, cache = model.run_with_cache(tokens_of())
    found = components(model, cache)
    torch.testing.assert_close(found.values.sum(0), cache["blocks.1.hook_resid_post"], rtol=0, atol=1e-10)


def test_no_gradient_reaches_the_weights():
    model = model_of("gpt2")
    found = components(model, cache_of(model))
    assert not found.values.requires_grad
    assert not along(model, cache_of(model), Part("attn", 0), torch.ones(2, 7, 10), split=True).values.requires_grad


@settings(max_examples=20)
@given(configs())
def test_behind_a_frozen_norm_a_direction_reads_what_it_reads_before_it(config):
    model = model_of(config, dtype=torch.float64)
    x, direction = (torch.randn(3, config.d_model, dtype=torch.float64) for _ in range(2))
    scale = model.ln_final.scale(x)
    before, constant = before_norm(model.ln_final, direction, scale)
    expected = (model.ln_final(x) * direction).sum(-1)
    torch.testing.assert_close((x * before).sum(-1) + constant, expected, rtol=0, atol=1e-10)


def test_half_precision_is_read_in_full():
    model = model_of("gpt2", dtype=torch.bfloat16)
    found = along(model, cache_of(model), Part("mlp", 1), torch.ones(2, 7, 10, dtype=torch.bfloat16), split=True)
    assert found.values.dtype == torch.float32
    assert components(model, cache_of(model)).values.dtype == torch.bfloat16


@pytest.mark.parametrize(("layer", "mlp_input"), [(3, False), (-2, False), (2, True), (None, True)])
def test_a_layer_that_there_is_not_is_refused(layer, mlp_input):
    with pytest.raises(ArgumentError, match=r"layer must lie in 0\.\.2, or be -1|mlp_input needs a layer with an MLP"):
        layer_read(CONFIGS["gpt2"], layer, mlp_input=mlp_input)


def test_without_mlps_there_is_nothing_in_the_midst_and_no_neuron():
    with pytest.raises(ArgumentError, match="got layer 0, and this model has attention only; leave mlp_input out"):
        parts(CONFIGS["attention only"], 0, mlp_input=True)
    model = model_of("attention only")
    with pytest.raises(ArgumentError, match="neurons need a model with MLPs, and this model has attention only"):
        neuron_results(model, {"blocks.0.mlp.hook_post": torch.ones(1, 1, 3)}, 0)


def test_what_the_cache_lacks_is_told():
    model = model_of("gpt2")
    _, cache = model.run_with_cache(tokens_of(), names_filter=["attn_out", "mlp_out"])
    with pytest.raises(UnknownNameError, match="hook_embed was not kept in this run"):
        components(model, cache, heads=False, neurons=False)


def test_a_model_without_layers_is_its_embeddings():
    config = config_of(n_layers=0, attention=AttentionConfig(n_heads=1, d_head=2), mlp=MLPConfig(d_mlp=2))
    model = model_of(config, dtype=torch.float64)
    assert components(model, cache_of(model)).labels == ["embed", "pos_embed"]
