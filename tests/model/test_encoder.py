"""The encoder against one written out in plain torch; what it sees, and what it does not."""

from dataclasses import replace

import pytest
import torch

from pellucid import Config, Encoder, HookedTransformer, Zero
from pellucid.base.errors import ArgumentError, CheckpointError, ConfigError, TokenError
from pellucid.pretrained.export import save_pretrained
from pellucid.pretrained.load import Options, load
from tests.models import CONFIGS, assert_agree, config_of, encoder_of, model_of, tokens_of, unchecked
from tests.reference.literal import literal

MASKS = {
    "no mask": None,
    "padding": torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]]),
}
TOKENS = tokens_of(batch=3)
WIDE = {"dtype": torch.float64}

each_kind = pytest.mark.parametrize("kind", CONFIGS)
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


def head_1_is_zero(x):
    return x * (torch.arange(x.shape[2]) != 1)[:, None]


@each_kind
@each_mask
def test_every_hook_point_shows_what_a_literal_encoder_computes(kind, mask):
    model = encoder_of(kind, **WIDE)
    logits, values = literal(model, TOKENS, mask=mask, causal=False)
    found, cache = model.run_with_cache(TOKENS, attention_mask=mask, names_filter=model.hook_names)
    assert list(cache) == list(values)
    assert set(cache) == set(model.hook_names)
    assert_agree({"logits": found, **cache}, {"logits": logits, **values}, within=1e-9)


@each_kind
@each_mask
def test_the_fused_run_is_the_explicit_one(kind, mask):
    model = encoder_of(kind, **WIDE)
    explicit = model.run(TOKENS, attention_mask=mask, attention="explicit").logits
    assert_agree({"logits": model(TOKENS, attention_mask=mask)}, {"logits": explicit}, within=1e-12)


def test_its_hook_points_have_the_names_of_a_decoders():
    assert encoder_of(config_of(n_layers=1)).hook_names == [
        "hook_embed",
        "hook_pos_embed",
        "blocks.0.ln1.hook_scale",
        "blocks.0.ln1.hook_normalized",
        "blocks.0.attn.hook_q",
        "blocks.0.attn.hook_k",
        "blocks.0.attn.hook_v",
        "blocks.0.attn.hook_attn_scores",
        "blocks.0.attn.hook_pattern",
        "blocks.0.attn.hook_z",
        "blocks.0.attn.hook_result",
        "blocks.0.hook_resid_pre",
        "blocks.0.hook_attn_in",
        "blocks.0.hook_q_input",
        "blocks.0.hook_k_input",
        "blocks.0.hook_v_input",
        "blocks.0.hook_attn_out",
        "blocks.0.hook_resid_mid",
        "blocks.0.hook_mlp_in",
        "blocks.0.ln2.hook_scale",
        "blocks.0.ln2.hook_normalized",
        "blocks.0.mlp.hook_pre",
        "blocks.0.mlp.hook_post",
        "blocks.0.hook_mlp_out",
        "blocks.0.hook_resid_post",
        "ln_final.hook_scale",
        "ln_final.hook_normalized",
    ]
    for kind in CONFIGS:
        assert encoder_of(kind).hook_names == model_of(kind).hook_names


@each_kind
def test_a_later_token_reaches_every_position_of_an_encoder_and_no_earlier_one_of_a_decoder(kind):
    other = TOKENS.clone()
    other[:, -1] = (other[:, -1] + 1) % 17
    encoder, decoder = encoder_of(kind), model_of(kind)
    assert ((encoder(TOKENS) - encoder(other)).abs().amax(-1) > 1e-4).all()
    assert torch.equal(decoder(TOKENS)[:, :-1], decoder(other)[:, :-1])


@each_kind
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_gives_what_it_gives_without_padding(kind, side):
    model, padding = encoder_of(kind, **WIDE), torch.full((3, 2), 5)
    parts = [padding, TOKENS] if side == "left" else [TOKENS, padding]
    at = slice(2, None) if side == "left" else slice(7)
    mask = torch.zeros(3, 9, dtype=torch.bool)
    mask[:, at] = True
    run = model.run(torch.cat(parts, 1), attention_mask=mask)
    assert_agree({"logits": run.logits[:, at]}, {"logits": model(TOKENS)}, within=1e-12)
    assert torch.equal(run.mask, mask)


@each_kind
@each_mask
@pytest.mark.parametrize("way", ["an edit", "a hook", "a cached run with a standing hook"])
def test_a_head_set_to_zero_is_so_for_the_literal_encoder_too(kind, mask, way):
    model, name = encoder_of(kind, **WIDE), "blocks.0.attn.hook_z"
    expected, values = literal(model, TOKENS, mask=mask, causal=False, edit={name: head_1_is_zero})
    if way == "an edit":
        found = model.run(TOKENS, edits=Zero("z", layer=0, head=1), attention_mask=mask).logits
    elif way == "a hook":
        found = model.run_with_hooks(
            TOKENS, attention_mask=mask, fwd_hooks=[(("z", 0), lambda x, hook: head_1_is_zero(x))]
        )
    else:
        with model.hooks(fwd_hooks=[(name, lambda x, hook: head_1_is_zero(x))]):
            found, cache = model.run_with_cache(TOKENS, attention_mask=mask, names_filter=["pattern", "z"])
        assert_agree(cache, {full: values[full] for full in cache}, within=1e-9)
    assert_agree({"logits": found}, {"logits": expected}, within=1e-9)
    assert not torch.equal(found, model(TOKENS, attention_mask=mask))


@each_kind
def test_gradients_reach_every_parameter_as_in_the_literal_encoder(kind):
    model = encoder_of(kind, **WIDE)
    names, parameters = zip(*model.named_parameters(), strict=True)
    found, expected = (
        dict(zip(names, torch.autograd.grad(logits.square().sum(), parameters), strict=True))
        for logits in (model(TOKENS), literal(model, TOKENS, causal=False)[0])
    )
    assert_agree(found, expected, within=1e-9)
    unused = {name for name, grad in found.items() if not grad.abs().max() > 1e-9}
    assert {name.rpartition(".")[2] for name in unused} <= {"b_K"}  # softmax does not see what all keys share


def test_without_unembedding_it_gives_the_normalised_stream():
    model = encoder_of("gpt2")
    stream = model(TOKENS, unembed=False)
    assert torch.equal(model.unembed(stream), model(TOKENS))


def test_its_stacked_weights_are_those_of_its_blocks():
    model = encoder_of("llama")
    assert torch.equal(model.W_Q[1], model.blocks[1].attn.W_Q)
    assert torch.equal(model.W_K[1, 3], model.blocks[1].attn.W_K[1])


def test_fresh_weights_follow_their_seed():
    config = replace(CONFIGS["gpt2"], architecture="encoder")
    first, again, other = (Encoder(config, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attn.W_Q"], other["blocks.0.attn.W_Q"])


@each_kind
def test_what_is_saved_is_what_is_loaded(tmp_path, kind):
    model = encoder_of(kind)
    save_pretrained(model, tmp_path)
    found = load(tmp_path, make=Encoder)
    assert found.model.config == model.config
    assert found.record.processing == ()
    assert found.model.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(found.model.state_dict()[name], value) for name, value in model.state_dict().items())
    assert torch.equal(found.model(TOKENS), model(TOKENS))


def test_the_first_layers_can_be_loaded_alone(tmp_path):
    model = encoder_of("gpt2")
    save_pretrained(model, tmp_path)
    first = load(tmp_path, make=Encoder, options=Options(first_n_layers=1)).model
    reads = ["blocks.0.hook_resid_post"]
    assert_agree(first.run(TOKENS, reads=reads).cache, model.run(TOKENS, reads=reads).cache, within=0)


def test_a_saved_encoder_is_no_hooked_transformer(tmp_path):
    save_pretrained(encoder_of("gpt2"), tmp_path)
    said = "HookedTransformer needs a configuration of architecture 'decoder', got 'encoder'; use Encoder"
    with pytest.raises(ConfigError, match=f"^{said}$"):
        HookedTransformer.from_pretrained(tmp_path, device="cpu")


def test_no_family_holds_an_encoder(tmp_path):
    with pytest.raises(
        CheckpointError, match="cannot be saved as gpt2: it holds decoders only, and this is an encoder"
    ):
        save_pretrained(encoder_of("gpt2"), tmp_path / "model", family="gpt2")
    assert not (tmp_path / "model").exists()


def test_a_configuration_of_another_architecture_is_refused():
    decoder = config_of()
    said = "Encoder needs a configuration of architecture 'encoder', got '{}'; use {}"
    for architecture, name in (("decoder", "HookedTransformer"), ("encoder-decoder", "EncoderDecoder")):
        with pytest.raises(ConfigError, match=said.format(architecture, name)):
            Encoder(replace(decoder, architecture=architecture))
    with (
        unchecked(),
        pytest.raises(ConfigError, match="architecture must be decoder, encoder, .* got 'encodr'.*encoder"),
    ):
        Config.from_dict(decoder.to_dict() | {"architecture": "encodr"})


@pytest.mark.parametrize(
    ("tokens", "mask", "error", "said"),
    [
        (torch.zeros(1, 3), None, ArgumentError, r"tokens must be integers \[batch pos\], got torch.float32 \[1, 3\]$"),
        (torch.zeros(3).long(), None, ArgumentError, r"tokens must be integers \[batch pos\], got torch.int64 \[3\]$"),
        (torch.zeros(1, 0).long(), None, ArgumentError, "a prompt must have at least one token, got none"),
        (torch.zeros(1, 17).long(), None, ArgumentError, "a prompt must have at most n_ctx=16 tokens, got 17"),
        (torch.tensor([[3, 17]]), None, TokenError, r"token ids must lie in 0\.\.16, got 3\.\.17"),
        (TOKENS, torch.ones(3, 6), ArgumentError, r"\[3, 7\], got \[3, 6\]"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(tokens, mask, error, said):
    with unchecked(), pytest.raises(error, match=said):
        encoder_of("gpt2")(tokens, attention_mask=mask)
