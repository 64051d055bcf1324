"""State dictionaries: our names are those of TransformerLens 2.18, and what it wrote loads."""

import pytest
import torch

from pellucid import HookedTransformer
from pellucid.base.errors import CheckpointError, MisreadWarning
from pellucid.model.embed import TiedUnembed
from tests.models import CONFIGS, config_of, model_of, tokens_of


def fresh(config):
    return HookedTransformer(config, seed=1, device="cpu")


def as_2_18_writes_it(model):
    """The entries that 2.18 keeps: buffers, zeros for biases that are not there, `_W_K`, a copy of a tied W_U."""
    config, state = model.config, dict(model.state_dict())
    heads, kv_heads, d_head = config.attention.n_heads, config.attention.kv_heads, config.attention.d_head
    grouped = kv_heads != heads
    for layer in range(config.n_layers):
        at = f"blocks.{layer}.attn"
        state[f"{at}.mask"] = torch.ones(config.n_ctx, config.n_ctx).tril().bool()
        state[f"{at}.IGNORE"] = torch.tensor(-torch.inf)
        state[f"{at}.rotary_sin"] = state[f"{at}.rotary_cos"] = torch.ones(config.n_ctx, d_head)
        for name, n in (("b_Q", heads), ("b_K", kv_heads), ("b_V", kv_heads)):
            state.setdefault(f"{at}.{name}", torch.zeros(n, d_head))
        state.setdefault(f"{at}.b_O", torch.zeros(config.d_model))
        if grouped:
            for name in ("W_K", "W_V", "b_K", "b_V"):
                state[f"{at}._{name}"] = state.pop(f"{at}.{name}")
        if config.mlp is not None:
            state.setdefault(f"blocks.{layer}.mlp.b_in", torch.zeros(config.mlp.d_mlp))
            state.setdefault(f"blocks.{layer}.mlp.b_out", torch.zeros(config.d_model))
    state["unembed.W_U"] = model.W_U.detach().clone()
    state.setdefault("unembed.b_U", torch.zeros(config.vocab_out))
    return state


def test_parameters_have_the_names_of_2_18():
    names = [
        "embed.W_E",
        "pos_embed.W_pos",
        *(
            f"blocks.{layer}.{name}"
            for layer in range(2)
            for name in (
                *("ln1.w", "ln1.b", "ln2.w", "ln2.b"),
                *("attn.W_Q", "attn.W_K", "attn.W_V", "attn.W_O", "attn.b_Q", "attn.b_K", "attn.b_V", "attn.b_O"),
                *("mlp.W_in", "mlp.b_in", "mlp.W_out", "mlp.b_out"),
            )
        ),
        *("ln_final.w", "ln_final.b", "unembed.W_U", "unembed.b_U"),
    ]
    assert set(model_of(config_of(unembed_bias=True)).state_dict()) == set(names)
    gated = model_of("llama").state_dict()
    assert {"blocks.0.mlp.W_gate", "blocks.0.attn.W_K", "blocks.0.ln1.w"} <= set(gated)
    assert gated["blocks.0.attn.W_K"].shape == (2, 10, 6)
    assert "unembed.W_U" not in model_of("gpt2").state_dict()


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_state_goes_round(kind):
    model, tokens = model_of(kind), tokens_of(kind)
    other = fresh(model.config)
    assert not torch.allclose(other(tokens), model(tokens))
    result = other.load_state_dict(model.state_dict())
    assert not result.missing_keys and not result.unexpected_keys
    assert torch.equal(other(tokens), model(tokens))


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_state_that_2_18_wrote_loads(kind):
    model, tokens = model_of(kind), tokens_of(kind)
    other = fresh(model.config)
    other.load_state_dict(as_2_18_writes_it(model))
    assert torch.equal(other(tokens), model(tokens))
    assert isinstance(other.unembed, TiedUnembed) == model.config.tied


def test_another_W_U_unties_and_says_so():
    model, tokens = model_of("gpt2"), tokens_of()
    state = as_2_18_writes_it(model)
    state["unembed.W_U"] = torch.randn(10, 17)
    other = fresh(model.config)
    with pytest.warns(MisreadWarning, match="W_U was W_E transposed; it is now a matrix of its own"):
        other.load_state_dict(state)
    assert torch.equal(other.W_U, state["unembed.W_U"])
    assert torch.equal(other.W_E, model.W_E)
    assert set(other.state_dict()) - set(model.state_dict()) == {"unembed.W_U"}
    untied = HookedTransformer(model.config.change(tied=False), device="cpu")
    untied.load_state_dict(other.state_dict())
    assert torch.equal(untied(tokens), other(tokens))


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda state: state.update({"blocks.0.attn.W_X": torch.ones(1)}), "Unexpected key.*blocks.0.attn.W_X"),
        (lambda state: state.pop("blocks.0.attn.W_Q"), "Missing key.*blocks.0.attn.W_Q"),
        (
            lambda state: state.update({"blocks.0.attn.W_Q": torch.ones(4, 10, 5)}),
            "size mismatch for blocks.0.attn.W_Q",
        ),
        (lambda state: state.update({"unembed.b_U": torch.ones(17)}), "Unexpected key.*unembed.b_U"),
        (lambda state: state.update({"blocks.5.attn.b_Q": torch.ones(1)}), "Unexpected key.*blocks.5.attn.b_Q"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, said):
    model = model_of("gpt2")
    state = dict(model.state_dict())
    change(state)
    with pytest.raises(RuntimeError, match=said):
        fresh(model.config).load_state_dict(state)


def test_a_W_U_of_another_shape_is_refused():
    model = model_of("gpt2")
    state = dict(model.state_dict()) | {"unembed.W_U": torch.ones(10, 7)}
    with pytest.raises(CheckpointError, match=r"unembed.W_U must be \[10, 17\], got \[10, 7\]"):
        fresh(model.config).load_state_dict(state)


def test_a_state_that_is_refused_leaves_the_unembedding_tied():
    model = model_of("gpt2")
    state = dict(model.state_dict()) | {"unembed.W_U": torch.ones(10, 17)}
    del state["blocks.0.attn.W_Q"]
    with pytest.raises(RuntimeError, match="Missing key.*blocks.0.attn.W_Q"):
        model.load_state_dict(state)
    assert isinstance(model.unembed, TiedUnembed)
    with pytest.warns(MisreadWarning, match="it is now a matrix of its own"):
        model.load_state_dict(state, strict=False)
    assert model.W_U.eq(1).all()


def test_an_assigned_W_U_is_the_tensor_itself():
    model, W_U = model_of("gpt2"), torch.ones(10, 17)
    with pytest.warns(MisreadWarning):
        model.load_state_dict(dict(model.state_dict()) | {"unembed.W_U": W_U}, assign=True)
    assert model.W_U.data_ptr() == W_U.data_ptr()


def test_a_state_may_be_partial_where_that_is_asked():
    model = model_of("gpt2")
    result = model.load_state_dict({"embed.W_E": torch.ones(17, 10)}, strict=False)
    assert "pos_embed.W_pos" in result.missing_keys
    assert model.W_E.eq(1).all()
