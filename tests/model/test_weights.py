"""All layers' weights as one tensor each."""

import pytest
import torch

from pellucid import AttentionConfig, HookedTransformer, MLPConfig
from pellucid.base.errors import UnknownNameError
from tests.models import CONFIGS, config_of, model_of


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_stack_holds_every_layer_s_parameter(kind):
    model = model_of(kind)
    for part, names in (("attn", "W_Q W_O b_Q b_O"), ("mlp", "W_in W_out b_in b_out")):
        if part == "mlp" and model.config.mlp is None:
            continue
        for name in names.split():
            stack = getattr(model, name)
            for layer, block in enumerate(model.blocks):
                own = getattr(getattr(block, part), name)
                assert torch.equal(stack[layer], torch.zeros_like(stack[layer]) if own is None else own), name


@pytest.mark.parametrize("n_kv_heads", [None, 1, 2])
def test_keys_and_values_are_stacked_by_query_head(n_kv_heads):
    model = model_of(config_of(attention=AttentionConfig(n_heads=4, d_head=6, n_kv_heads=n_kv_heads)))
    group = 4 // (n_kv_heads or 4)
    for name in ("W_K", "W_V", "b_K", "b_V"):
        stack = getattr(model, name)
        assert stack.shape[:2] == (2, 4)
        for layer in range(2):
            for head in range(4):
                assert torch.equal(stack[layer, head], getattr(model.blocks[layer].attn, name)[head // group])


def test_biases_that_the_model_has_not_are_zeros_in_the_stacks():
    model = model_of("llama")
    assert model.b_K.shape == (2, 4, 6) and model.b_K.eq(0).all()
    assert model.b_O.shape == (2, 10) and model.b_in.shape == (2, 14)
    assert model.b_U.shape == (17,) and model.b_U.eq(0).all()
    assert model.blocks[0].attn.b_K is None


def test_gradients_flow_through_the_stacks():
    model = model_of("llama")
    model.W_K[1, 3].sum().backward()
    assert model.blocks[1].attn.W_K.grad[1].eq(1).all()
    assert model.blocks[1].attn.W_K.grad[0].eq(0).all()


def test_a_stack_follows_what_is_written_to_a_block():
    model = model_of("gpt2")
    model.blocks[1].attn.W_Q.data[2] = 5.0
    assert model.W_Q[1, 2].eq(5).all()
    model.blocks[0].mlp.W_out.data = torch.ones(14, 10)
    assert model.W_out[0].eq(1).all()


def test_a_weight_that_the_model_has_not_is_an_error_that_says_why():
    with pytest.raises(UnknownNameError, match="this model has no W_pos: its positions are Rotary"):
        _ = model_of("llama").W_pos
    with pytest.raises(UnknownNameError, match="this model has no W_gate: its MLPs are not gated"):
        _ = model_of("gpt2").W_gate
    for name in ("W_in", "W_out", "b_in", "b_out", "W_gate"):
        with pytest.raises(UnknownNameError, match=f"this model has no {name}: it has attention only"):
            getattr(model_of("attention only"), name)


def test_a_fresh_model_s_weights_are_those_of_its_seed():
    config = config_of(mlp=MLPConfig(d_mlp=14, gated=True), init_range=0.5)
    one, same, other = model_of(config, seed=3), model_of(config, seed=3), model_of(config, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.W_Q, other.W_Q)
    assert float(one.W_in.detach().std()) == pytest.approx(0.5, rel=0.2)


def test_fresh_biases_are_zero_and_norms_do_nothing():
    torch.manual_seed(5)
    model = HookedTransformer(config_of(), device="cpu")
    torch.manual_seed(5)
    again = HookedTransformer(config_of(), device="cpu")
    assert torch.equal(model.W_E, again.W_E)
    for name, parameter in model.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        assert parameter.requires_grad
        if leaf == "w":
            assert parameter.eq(1).all()
        elif leaf.startswith("b"):
            assert parameter.eq(0).all()
        else:
            assert float(parameter.detach().std()) == pytest.approx(0.8 / 10**0.5, rel=0.25), name


def test_fresh_weights_may_be_zero():
    model = HookedTransformer(config_of(init_range=0.0), device="cpu")
    assert model.W_Q.eq(0).all() and model.W_E.eq(0).all()
    assert model.cfg.init_range == 0.0


def test_fresh_embeddings_may_have_a_deviation_of_their_own():
    model = HookedTransformer(config_of(init_range=0.1, embed_init_range=2.0, d_vocab=500, n_ctx=500), device="cpu")
    found = {name: float(p.detach().std()) for name, p in model.named_parameters() if "W_" in name}
    for name, std in found.items():
        wanted = 2.0 if name in ("embed.W_E", "pos_embed.W_pos") else 0.1
        assert std == pytest.approx(wanted, rel=0.25), name


def test_a_seed_leaves_everybody_else_s_random_numbers_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    model_of("gpt2", seed=2)
    assert torch.equal(torch.rand(1), expected)
