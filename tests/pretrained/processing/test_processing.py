import math
from copy import deepcopy
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.model.attention import AttentionConfig, as_matrix
from pellucid.model.config import Config
from pellucid.model.decoder import Decoder
from pellucid.model.embed import TiedUnembed
from pellucid.model.mlp import MLPConfig
from pellucid.model.norms import LayerNorm, RMSNorm
from pellucid.model.positional import Learned, Rotary, Shortformer
from pellucid.pretrained.processing import STEPS, Processing, process
from pellucid.pretrained.processing.center_unembed import center_unembed
from pellucid.pretrained.processing.center_writing_weights import center_writing_weights
from pellucid.pretrained.processing.fold_ln import fold_ln
from pellucid.pretrained.processing.fold_value_biases import fold_value_biases
from tests.pretrained.checkpoints import scrambled

TOKENS = torch.arange(24).view(2, 12) % 11


@st.composite
def configs(draw):
    """Every kind of model that there is."""
    gated, bias = draw(st.booleans()), draw(st.booleans())
    attention = AttentionConfig(
        n_heads=4,
        d_head=6,
        n_kv_heads=draw(st.sampled_from([None, 1, 2])),
        qkv_bias=draw(st.booleans()),
        out_bias=draw(st.booleans()),
    )
    tied = draw(st.booleans())
    return Config(
        n_layers=draw(st.integers(0, 2)),
        d_model=16,
        d_vocab=11,
        n_ctx=12,
        attention=attention,
        mlp=draw(st.sampled_from([None, MLPConfig(d_mlp=20, gated=gated, bias=bias)])),
        norm=draw(
            st.sampled_from([LayerNorm(), LayerNorm(affine=False), RMSNorm(eps=1e-3), RMSNorm(affine=False), None])
        ),
        positions=draw(st.sampled_from([Learned(), Rotary(), Shortformer(), Shortformer(layers=1), None])),
        d_vocab_out=None if tied else draw(st.sampled_from([None, 7])),
        tied=tied,
        unembed_bias=draw(st.booleans()),
        residual=draw(st.booleans()),
    )


processings = st.builds(Processing, **dict.fromkeys(STEPS, st.booleans()))


def log_probs(model):
    with torch.no_grad():
        return model(TOKENS).log_softmax(-1)


@settings(max_examples=150)
@given(config=configs(), processing=processings)
def test_no_step_changes_log_probabilities_on_any_model(config, processing):
    model = scrambled(config, torch.float64)
    before = log_probs(model)
    made = process(model, processing)
    assert set(made) - {"untie"} <= {name for name in STEPS if getattr(processing, name)}
    after = log_probs(model)
    assert torch.allclose(before, after, rtol=1e-10, atol=1e-9)


@settings(max_examples=50)
@given(config=configs(), processing=processings)
def test_a_processed_model_is_what_its_config_says(config, processing):
    model = scrambled(config, torch.float64)
    process(model, processing)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert isinstance(model.unembed, TiedUnembed) is model.config.tied
    for block in model.blocks:
        assert block.attn.config == model.config.attention
        for W in (block.attn.W_Q, block.attn.W_K, block.attn.W_V):
            assert as_matrix(W).data_ptr() == W.data_ptr()
    fresh = Decoder(model.config, seed=5).double()
    fresh.load_state_dict(model.state_dict())
    assert torch.allclose(log_probs(fresh), log_probs(model), rtol=1e-10, atol=1e-9)


CONFIG = Config(
    n_layers=2,
    d_model=16,
    d_vocab=11,
    n_ctx=12,
    attention=AttentionConfig(n_heads=4, d_head=6),
    mlp=MLPConfig(d_mlp=20, gated=True),
    tied=True,
)


def test_all_steps_and_the_untying_are_told_in_order():
    assert process(scrambled(CONFIG), Processing()) == (
        "untie",
        "fold_ln",
        "center_writing_weights",
        "center_unembed",
        "fold_value_biases",
    )
    assert process(scrambled(CONFIG), Processing.none()) == ()
    assert process(scrambled(CONFIG), Processing(), done=STEPS) == ()
    no_biases = replace(CONFIG.attention, qkv_bias=False)
    rms = scrambled(CONFIG.change(norm=RMSNorm(), tied=False, attention=no_biases))
    assert process(rms, Processing()) == ("fold_ln", "center_unembed")


def test_fold_ln_leaves_norms_without_weights_and_readers_centred():
    model = scrambled(CONFIG, torch.float64)
    assert fold_ln(model)
    assert model.config.norm == LayerNorm(affine=False)
    assert not [name for name in model.state_dict() if "ln" in name]
    for block in model.blocks:
        for W in (block.attn.W_Q, block.attn.W_K, block.attn.W_V):
            assert W.mean(1).abs().max() < 1e-12
        assert max(W.mean(0).abs().max() for W in (block.mlp.W_in, block.mlp.W_gate)) < 1e-12
    assert model.unembed.W_U.mean(0).abs().max() < 1e-12
    assert model.config.unembed_bias
    assert not fold_ln(model)


def test_fold_ln_of_an_rms_norm_makes_no_bias_and_centres_nothing():
    attention = replace(CONFIG.attention, qkv_bias=False)
    model = scrambled(CONFIG.change(norm=RMSNorm(), attention=attention), torch.float64)
    expected = model.blocks[1].attn.W_Q * model.blocks[1].ln1.w[:, None]
    assert fold_ln(model)
    assert torch.allclose(model.blocks[1].attn.W_Q, expected)
    assert (model.config.attention.qkv_bias, model.config.unembed_bias) == (False, False)


def test_center_writing_weights_centres_all_that_writes_and_only_where_layer_norms_read():
    model = scrambled(CONFIG, torch.float64)
    assert center_writing_weights(model)
    for name, parameter in model.named_parameters():
        if name.rsplit(".", 1)[-1] in ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out"):
            assert parameter.mean(-1).abs().max() < 1e-12, name
    for norm in (RMSNorm(), None):
        other = scrambled(CONFIG.change(norm=norm))
        before = other.embed.W_E.clone()
        assert not center_writing_weights(other)
        assert torch.equal(other.embed.W_E, before) and other.config.tied


def test_center_unembed_centres_the_logits():
    model = scrambled(CONFIG.change(unembed_bias=True), torch.float64)
    W_E = model.embed.W_E.clone()
    assert center_unembed(model)
    assert model.unembed.W_U.mean(1).abs().max() < 1e-12
    assert model.unembed.b_U.mean().abs() < 1e-12
    assert torch.equal(model.embed.W_E, W_E)
    assert model(TOKENS).mean(-1).abs().max() < 1e-9


def test_fold_value_biases_counts_each_kv_head_once_for_each_of_its_query_heads():
    attention = AttentionConfig(n_heads=4, d_head=6, n_kv_heads=2, out_bias=False)
    model = scrambled(CONFIG.change(attention=attention), torch.float64)
    attn = model.blocks[0].attn
    expected = sum(attn.b_V[head // 2] @ attn.W_O[head] for head in range(4))
    assert fold_value_biases(model)
    assert torch.allclose(attn.b_O, expected)
    assert not attn.b_V.any()
    assert model.config.attention.out_bias
    without = scrambled(CONFIG.change(attention=replace(attention, qkv_bias=False)))
    assert not fold_value_biases(without)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_rounded_once_a_step(dtype):
    model = scrambled(CONFIG, dtype)
    for step in (fold_ln, fold_value_biases):
        wide = deepcopy(model).float()
        step(model)
        step(wide)
        for (name, ours), exact in zip(model.named_parameters(), wide.parameters(), strict=True):
            rounded = exact.to(dtype)
            close = torch.isclose(ours.float(), exact, rtol=torch.finfo(dtype).eps / 2 * 1.01, atol=1e-6)
            assert close.all(), (name, step, (ours.float() - exact).abs().max())
            assert (ours == rounded).float().mean() > 0.9


@pytest.mark.parametrize("elements", [1, 30, 10**6])
def test_the_number_of_rows_at_a_time_changes_nothing(monkeypatch, elements):
    import pellucid.pretrained.processing.rows as rows

    expected = scrambled(CONFIG, torch.float64)
    process(expected, Processing())
    monkeypatch.setattr(rows, "_ELEMENTS", elements)
    model = scrambled(CONFIG, torch.float64)
    process(model, Processing())
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, dict(expected.named_parameters())[name], atol=1e-12), name


def test_a_processed_model_learns_like_any():
    model = scrambled(CONFIG)
    process(model, Processing())
    model(TOKENS).log_softmax(-1)[..., 0].sum().backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert {name.rsplit(".", 1)[-1] for name in unused} <= {"b_K"}  # softmax ignores it
    assert math.isfinite(sum(p.grad.abs().sum() for p in model.parameters() if p.grad is not None))


def test_every_combination_is_a_value():
    made = {Processing(**dict(zip(STEPS, flags, strict=True))) for flags in product([False, True], repeat=4)}
    assert len(made) == 16
    assert Processing.none() in made and Processing() in made
