"""The encoder–decoder against one written out in plain torch; which side sees what."""

from dataclasses import replace

import pytest
import torch

from pellucid import EncoderDecoder, HookedTransformer, Zero
from pellucid.base.errors import ArgumentError, CheckpointError, ConfigError, TokenError
from pellucid.pretrained.export import save_pretrained
from pellucid.pretrained.load import Options, load
from tests.models import CONFIGS, assert_agree, config_of, encoder_decoder_of, tokens_of, unchecked
from tests.reference.literal_stacks import literal_encoder_decoder

SOURCE, TOKENS = tokens_of(batch=3, seed=1), tokens_of(batch=3, pos=5)
MASKS = {
    "no mask": {},
    "padded source": {
        "source_mask": torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]])
    },
    "padding on both sides": {
        "source_mask": torch.tensor([[0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    },
}
WIDE = {"dtype": torch.float64}

each_kind = pytest.mark.parametrize("kind", CONFIGS)
each_mask = pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)


def literally(model, *, edit=None, source_mask=None, attention_mask=None):
    return literal_encoder_decoder(model, SOURCE, TOKENS, edit=edit, source_mask=source_mask, mask=attention_mask)


@each_kind
@each_mask
def test_every_hook_point_shows_what_a_literal_encoder_decoder_computes(kind, masks):
    model = encoder_decoder_of(kind, **WIDE)
    logits, values = literally(model, **masks)
    found, cache = model.run_with_cache(SOURCE, TOKENS, names_filter=model.hook_names, **masks)
    assert list(cache) == list(values)
    assert set(cache) == set(model.hook_names)
    assert_agree({"logits": found, **cache}, {"logits": logits, **values}, within=1e-9)


@each_kind
@each_mask
def test_the_fused_run_is_the_explicit_one(kind, masks):
    model = encoder_decoder_of(kind, **WIDE)
    explicit = model.run(SOURCE, TOKENS, attention="explicit", **masks).logits
    assert_agree({"logits": model(SOURCE, TOKENS, **masks)}, {"logits": explicit}, within=1e-12)


def test_its_hook_points_have_the_names_of_2_18():
    ends = ["hook_embed", "hook_decoder_embed", "hook_pos_embed", "hook_decoder_pos_embed"]
    norm = ["hook_scale", "hook_normalized"]
    attention = [f"hook_{name}" for name in ("q", "k", "v", "attn_scores", "pattern", "z", "result")]
    block = [f"hook_{name}" for name in ("resid_pre", "attn_in", "q_input", "k_input", "v_input", "attn_out")]
    block += [f"hook_{name}" for name in ("resid_mid", "mlp_in", "mlp_out", "resid_post")]
    block += [f"{part}.{name}" for part in ("ln1", "ln2") for name in norm]
    block += [f"attn.{name}" for name in attention] + ["mlp.hook_pre", "mlp.hook_post"]
    cross = [f"cross_attn.{name}" for name in attention] + [f"ln3.{name}" for name in norm]
    cross += ["hook_cross_attn_out", "hook_resid_mid_cross"]
    expected = [*ends, *(f"{stack}_final_ln.{name}" for stack in ("encoder", "decoder") for name in norm)]
    expected += [f"{stack}.0.{name}" for stack in ("encoder", "decoder") for name in block]
    expected += [f"decoder.0.{name}" for name in cross]
    assert sorted(encoder_decoder_of(config_of(n_layers=1)).hook_names) == sorted(expected)


def test_a_short_name_means_both_stacks_and_both_attentions():
    run = encoder_decoder_of("gpt2").run(SOURCE, TOKENS, reads="pattern")
    assert {name: list(pattern.shape[-2:]) for name, pattern in run.cache.items()} == {
        f"{part}.hook_pattern": shape
        for layer in range(2)
        for part, shape in (
            (f"encoder.{layer}.attn", [7, 7]),
            (f"decoder.{layer}.attn", [5, 5]),
            (f"decoder.{layer}.cross_attn", [5, 7]),
        )
    }


@each_kind
def test_what_is_written_sees_the_whole_source_and_nothing_later(kind):
    model = encoder_decoder_of(kind)
    source, tokens = SOURCE.clone(), TOKENS.clone()
    source[:, -1], tokens[:, 3] = (source[:, -1] + 1) % 17, (tokens[:, 3] + 1) % 17
    plain = model(SOURCE, TOKENS)
    assert ((model(source, TOKENS) - plain).abs().amax(-1) > 1e-6).all()
    later = model(SOURCE, tokens)
    assert torch.equal(later[:, :3], plain[:, :3])
    reads = ["encoder.0.attn.hook_pattern", "decoder.0.attn.hook_pattern", "decoder.0.cross_attn.hook_pattern"]
    to_both, back, across = model.run(SOURCE, TOKENS, reads=reads).cache.values()
    assert (to_both > 0).all() and (across > 0).all()
    assert torch.equal(back > 0, torch.ones(5, 5).tril().bool().expand_as(back))


@each_kind
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_gives_what_it_gives_without_padding(kind, side):
    model, padding = encoder_decoder_of(kind, **WIDE), torch.full((3, 2), 5)
    padded, masks = [], []
    for tokens in (SOURCE, TOKENS):
        parts = [(padding, torch.zeros(3, 2)), (tokens, torch.ones(tokens.shape))]
        ids, real = zip(*(parts if side == "left" else parts[::-1]), strict=True)
        padded.append(torch.cat(ids, 1))
        masks.append(torch.cat(real, 1).bool())
    run = model.run(*padded, source_mask=masks[0], attention_mask=masks[1])
    assert torch.equal(run.mask, masks[1])
    rows = slice(2, None) if side == "left" else slice(5)
    assert_agree({"logits": run.logits[:, rows]}, {"logits": model(SOURCE, TOKENS)}, within=1e-12)


@each_kind
@each_mask
@pytest.mark.parametrize("way", ["an edit", "a hook"])
def test_a_head_of_cross_attention_set_to_zero_is_so_for_the_literal_one_too(kind, masks, way):
    model, name = encoder_decoder_of(kind, **WIDE), "decoder.1.cross_attn.hook_z"

    def head_2_is_zero(x, hook=None):
        return x * (torch.arange(x.shape[2]) != 2)[:, None]

    expected, _ = literally(model, edit={name: head_2_is_zero}, **masks)
    if way == "an edit":
        found = model.run(SOURCE, TOKENS, edits=Zero(name, head=2), **masks).logits
    else:
        found = model.run_with_hooks(SOURCE, TOKENS, fwd_hooks=[(name, head_2_is_zero)], **masks)
    assert_agree({"logits": found}, {"logits": expected}, within=1e-9)
    assert not torch.allclose(found, model(SOURCE, TOKENS, **masks))


@each_kind
def test_an_edit_of_the_encoder_reaches_what_is_written(kind):
    model, name = encoder_decoder_of(CONFIGS[kind].change(residual=True), **WIDE), "encoder.1.hook_attn_out"
    expected, _ = literally(model, edit={name: torch.zeros_like})
    found = model.run(SOURCE, TOKENS, edits=Zero(name)).logits
    assert_agree({"logits": found}, {"logits": expected}, within=1e-9)
    assert not torch.allclose(found, model(SOURCE, TOKENS))


@each_kind
def test_gradients_reach_every_parameter_as_in_the_literal_one(kind):
    model = encoder_decoder_of(CONFIGS[kind].change(residual=True), **WIDE)  # else they fade to nothing
    names, parameters = zip(*model.named_parameters(), strict=True)
    found, expected = (
        dict(zip(names, torch.autograd.grad(logits.square().sum(), parameters), strict=True))
        for logits in (model(SOURCE, TOKENS), literally(model)[0])
    )
    assert_agree(found, expected, within=1e-9)
    unused = {name for name, grad in found.items() if not grad.abs().max() > 1e-9}
    assert {name.rpartition(".")[2] for name in unused} <= {"b_K"}  # softmax does not see what all keys share


def test_what_the_encoder_made_of_a_source_is_what_cross_attention_reads():
    model, masks = encoder_decoder_of("gpt2", **WIDE), MASKS["padded source"]
    read, span = model.encoded(SOURCE, **masks)
    cache = model.run(SOURCE, TOKENS, reads="encoder_final_ln.hook_normalized", **masks).cache
    assert_agree(cache, {"encoder_final_ln.hook_normalized": read}, within=1e-12)
    assert torch.equal(span.keys_mask, masks["source_mask"].bool())


def test_without_unembedding_it_gives_the_normalised_stream():
    model = encoder_decoder_of("gpt2")
    assert torch.equal(model.unembed(model(SOURCE, TOKENS, unembed=False)), model(SOURCE, TOKENS))


def test_each_side_has_positions_of_its_own_and_both_share_the_embedding():
    model = EncoderDecoder(replace(CONFIGS["gpt2"], architecture="encoder-decoder"), seed=0)
    assert not torch.equal(model.pos_embed.W_pos, model.decoder_pos_embed.W_pos)
    assert [name for name, _ in model.named_parameters() if name.endswith(("W_E", "W_U"))] == ["embed.W_E"]
    cache = model.run(TOKENS, TOKENS, reads=lambda name: name.endswith("embed")).cache
    assert torch.equal(cache["hook_embed"], cache["hook_decoder_embed"])
    assert torch.equal(cache["hook_pos_embed"][0], model.pos_embed.W_pos[:5])
    assert torch.equal(cache["hook_decoder_pos_embed"][0], model.decoder_pos_embed.W_pos[:5])


def test_fresh_weights_follow_their_seed():
    config = replace(CONFIGS["llama"], architecture="encoder-decoder")
    first, again, other = (EncoderDecoder(config, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "decoder.1.cross_attn.W_V"
    assert not torch.equal(first[name], other[name])
    assert first[name].std().item() == pytest.approx(config.deviation, rel=0.3)


@each_kind
def test_what_is_saved_is_what_is_loaded(tmp_path, kind):
    model = encoder_decoder_of(kind)
    save_pretrained(model, tmp_path)
    found = load(tmp_path, make=EncoderDecoder)
    assert found.model.config == model.config
    assert found.record.processing == ()
    assert found.model.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(found.model.state_dict()[name], value) for name, value in model.state_dict().items())
    assert torch.equal(found.model(SOURCE, TOKENS), model(SOURCE, TOKENS))


def test_the_first_layers_of_both_stacks_can_be_loaded_alone(tmp_path):
    model = encoder_decoder_of("gpt2")
    save_pretrained(model, tmp_path)
    first = load(tmp_path, make=EncoderDecoder, options=Options(first_n_layers=1)).model
    assert (len(first.encoder), len(first.decoder)) == (1, 1)
    reads = ["encoder.0.hook_resid_post", "decoder.0.hook_resid_mid"]
    assert_agree(first.run(SOURCE, TOKENS, reads=reads).cache, model.run(SOURCE, TOKENS, reads=reads).cache, within=0)


def test_a_saved_one_is_no_hooked_transformer_and_no_familys(tmp_path):
    save_pretrained(encoder_decoder_of("gpt2"), tmp_path)
    said = (
        "HookedTransformer needs a configuration of architecture 'decoder', got 'encoder-decoder'; use EncoderDecoder"
    )
    with pytest.raises(ConfigError, match=f"^{said}$"):
        HookedTransformer.from_pretrained(tmp_path, device="cpu")
    with pytest.raises(CheckpointError, match="it holds decoders only, and this is an encoder-decoder"):
        save_pretrained(encoder_decoder_of("gpt2"), tmp_path / "model", family="gpt2")


@pytest.mark.parametrize(("architecture", "name"), [("decoder", "HookedTransformer"), ("encoder", "Encoder")])
def test_a_configuration_of_another_architecture_is_refused(architecture, name):
    said = f"EncoderDecoder needs a configuration of architecture 'encoder-decoder', got '{architecture}'; use {name}$"
    with pytest.raises(ConfigError, match=said):
        EncoderDecoder(replace(config_of(), architecture=architecture))


NONE, LONG, FLOATS = torch.zeros(3, 0).long(), torch.zeros(3, 17).long(), torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("source", "tokens", "masks", "error", "said"),
    [
        (FLOATS, TOKENS, {}, ArgumentError, r"source must be integers \[batch pos\], got torch.float32 \[3, 2\]$"),
        (SOURCE, FLOATS, {}, ArgumentError, r"tokens must be integers \[batch pos\], got torch.float32 \[3, 2\]$"),
        (NONE, TOKENS, {}, ArgumentError, "a prompt must have at least one token, got none"),
        (SOURCE, NONE, {}, ArgumentError, "a prompt must have at least one token, got none"),
        (LONG, TOKENS, {}, ArgumentError, "a prompt must have at most n_ctx=16 tokens, got 17"),
        (SOURCE, LONG, {}, ArgumentError, "a prompt must have at most n_ctx=16 tokens, got 17"),
        (SOURCE[:1] * 0 + 17, TOKENS[:1], {}, TokenError, r"token ids must lie in 0\.\.16, got 17\.\.17"),
        (SOURCE, TOKENS * 0 - 1, {}, TokenError, r"token ids must lie in 0\.\.16, got -1\.\.-1"),
        (SOURCE[:1], TOKENS, {}, ArgumentError, "source and tokens must be of as many prompts, got 1 and 3"),
        (SOURCE, TOKENS[:2], {}, ArgumentError, "source and tokens must be of as many prompts, got 3 and 2"),
        (SOURCE, TOKENS, {"source_mask": torch.ones(3, 5)}, ArgumentError, r"\[3, 7\], got \[3, 5\]"),
        (SOURCE, TOKENS, {"attention_mask": torch.ones(3, 7)}, ArgumentError, r"\[3, 5\], got \[3, 7\]"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(source, tokens, masks, error, said):
    with unchecked(), pytest.raises(error, match=said):
        encoder_decoder_of("gpt2")(source, tokens, **masks)
