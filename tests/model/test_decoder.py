"""Continuing: from any layer to any layer, at chosen positions, bit for bit what the whole pass has there."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.base.errors import ArgumentError, TokenError
from pellucid.hooks.names import layer_of, short_name
from pellucid.model.decoder import Decoder
from tests.models import CONFIGS, config_of, configs, model_of, tokens_of, unchecked

TOKENS = tokens_of()


@settings(max_examples=20)
@given(configs(), st.sampled_from(["fused", "explicit"]))
def test_stopping_before_a_layer_and_starting_there_is_the_whole(config, form):
    model, tokens = model_of(config), tokens_of(config)

    def run(x, **more):
        return model(x, **more) if form == "fused" else model.run(x, attention="explicit", **more).logits

    whole = run(tokens)
    for layer in range(config.n_layers + 1):
        stream = run(tokens, stop_at_layer=layer)
        assert torch.equal(run(stream, start_at_layer=layer), whole)
        assert stream.shape == (2, 7, 10)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_stream_where_a_run_stops_is_what_the_next_block_reads(kind):
    model, tokens = model_of(kind), tokens_of(kind)
    _, cache = model.run_with_cache(tokens)
    explicit = {"attention": "explicit"}
    for layer in range(2):
        assert torch.equal(model.run(tokens, stop_at_layer=layer, **explicit).logits, cache["resid_pre", layer])
    assert torch.equal(model.run(tokens, stop_at_layer=2, **explicit).logits, cache["resid_post", 1])
    part = model.run(cache["resid_pre", 1], start_at_layer=1, stop_at_layer=2, **explicit)
    assert torch.equal(part.logits, cache["resid_post", 1])
    assert torch.equal(model(cache["resid_pre", 1], start_at_layer=1, stop_at_layer=1), cache["resid_pre", 1])


def test_negative_layers_count_from_the_last():
    model = model_of("gpt2")
    assert torch.equal(model(TOKENS, stop_at_layer=-1), model(TOKENS, stop_at_layer=1))
    stream = model(TOKENS, stop_at_layer=1)
    assert torch.equal(model(stream, start_at_layer=-1), model(stream, start_at_layer=1))
    assert torch.equal(model(TOKENS, stop_at_layer=-2), model(TOKENS, stop_at_layer=0))


def test_hooks_outside_the_layers_that_run_are_not_called():
    model, seen = model_of("gpt2"), []
    stream = model(TOKENS, stop_at_layer=1)
    model.run_with_hooks(stream, start_at_layer=1, fwd_hooks=[(None, lambda x, hook: seen.append(hook.name))])
    assert seen[0] == "blocks.1.hook_resid_pre" and seen[-1] == "ln_final.hook_normalized"
    assert {layer_of(name) for name in seen} == {1, None}
    seen.clear()
    model.run_with_hooks(TOKENS, stop_at_layer=1, fwd_hooks=[(None, lambda x, hook: seen.append(hook.name))])
    assert seen[-1] == "blocks.0.hook_resid_post"


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_point_cached_alone_stopping_just_after_it_is_bit_equal_to_the_full_cache(kind):
    model, tokens = model_of(kind), tokens_of(kind)
    _, full = model.run_with_cache(tokens, names_filter=None)
    _, demanded = model.run_with_cache(tokens, names_filter=model.hook_names)
    outside = {"embed": 0, "pos_embed": 0}
    for name in model.hook_names:
        layer = layer_of(name)
        stop = outside.get(short_name(name)) if layer is None else layer + 1
        _, alone = model.run_with_cache(tokens, names_filter=name, stop_at_layer=stop)
        _, filtered = model.run_with_cache(tokens, names_filter=[name])
        assert list(alone) == [name]
        for other in (filtered, demanded, full):
            if name in other:
                assert torch.equal(alone[name], other[name]), name


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("at", [0, -1, [2], [0, 3, -1], [], "tensor"])
def test_logits_at_some_positions_are_those_rows(kind, at):
    model, tokens = model_of(kind), tokens_of(kind)
    whole = model(tokens)
    if at == "tensor":
        positions = torch.tensor([[0, 5, -1], [2, 2, -7]])
        expected = torch.stack([whole[row, positions[row]] for row in range(2)])
        found = model(tokens, logits_at=positions)
    else:
        expected = whole[:, [at] if isinstance(at, int) else at]
        found = model(tokens, logits_at=at)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert found.shape == expected.shape


def test_logits_at_positions_leave_the_points_before_the_last_norm_whole():
    model = model_of("gpt2")
    run = model.run(TOKENS, logits_at=[1, 2, 3], reads=["resid_post", "ln_final.hook_normalized"])
    assert run.cache["resid_post", 1].shape == (2, 7, 10)
    assert run.cache["ln_final.hook_normalized"].shape == (2, 3, 10)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"logits_at": 7}, r"logits_at must lie in 0\.\.6, got 7; choose a position of the prompt"),
        ({"logits_at": [0, -8]}, r"logits_at must lie in 0\.\.6, got -8"),
        ({"logits_at": torch.tensor([[0], [7]])}, r"logits_at must lie in 0\.\.6, got 7"),
        ({"logits_at": torch.tensor([0, 1])}, r"a tensor \[batch k\] with batch 2, got \[2\]"),
        ({"logits_at": torch.tensor([[0, 1]])}, r"a tensor \[batch k\] with batch 2, got \[1, 2\]"),
        ({"logits_at": 0, "return_type": "loss"}, "a loss needs the logits of all positions; leave logits_at out"),
        ({"stop_at_layer": 3}, "0 ≤ start_at_layer ≤ stop_at_layer ≤ n_layers=2 must hold, got None and 3"),
        ({"stop_at_layer": -3}, "must hold, got None and -3"),
        (
            {"start_at_layer": 1},
            r"with start_at_layer the input must be a residual stream \[batch pos 10\], got \[2, 7\]",
        ),
        (
            {"attention_mask": torch.ones(2, 6)},
            r"the attention mask must be \[batch pos\] of the tokens given, \[2, 7\], got \[2, 6\]",
        ),
        (
            {"positions": torch.arange(6)[None]},
            r"positions must be \[batch pos\] of the tokens given, \[2, 7\], or one row",
        ),
        ({"positions": torch.arange(-1, 6)[None]}, "positions must be 0 or more, got -1"),
        ({"positions": torch.arange(10, 17)[None]}, "a prompt must have at most n_ctx=16 tokens, got 17; shorten it"),
        ({"return_type": "logit"}, "return_type must be 'logits', 'loss', 'both' or None, got 'logit'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, said):
    with unchecked(), pytest.raises(ArgumentError, match=said):
        model_of("gpt2")(TOKENS, **arguments)


@pytest.mark.parametrize(
    "given, error, said",
    [
        (
            torch.zeros(2, 7, 10),
            ArgumentError,
            r"tokens must be integers \[batch pos\], got torch.float32 \[2, 7, 10\]; give the",
        ),
        (torch.zeros(2, 7), ArgumentError, r"tokens must be integers \[batch pos\], got torch.float32 \[2, 7\]"),
        (
            torch.zeros(1, 0, dtype=torch.long),
            ArgumentError,
            "a prompt must have at least one token, got none; put BOS in front",
        ),
        (torch.zeros(1, 17, dtype=torch.long), ArgumentError, "a prompt must have at most n_ctx=16 tokens, got 17"),
        (
            torch.tensor([[0, 17, 3]]),
            TokenError,
            r"token ids must lie in 0\.\.16, got 0\.\.17; use the model's own tokenizer",
        ),
        (torch.tensor([[-1, 3]]), TokenError, r"token ids must lie in 0\.\.16, got -1\.\.3"),
    ],
)
def test_input_that_is_no_prompt_is_refused(given, error, said):
    with unchecked(), pytest.raises(error, match=said):
        Decoder(CONFIGS["gpt2"], seed=0)(given)


def test_a_stream_of_another_width_is_refused():
    with (
        unchecked(),
        pytest.raises(ArgumentError, match=r"must be a residual stream \[batch pos 10\], got \[2, 7, 9\]"),
    ):
        model_of("gpt2")(torch.zeros(2, 7, 9), start_at_layer=1)


def test_start_after_stop_is_refused():
    with pytest.raises(ArgumentError, match="must hold, got 1 and 0"):
        model_of("gpt2")(torch.zeros(2, 7, 10), start_at_layer=1, stop_at_layer=0)


def test_a_prompt_may_fill_the_context_and_have_one_token():
    for n in (1, 16):
        assert model_of("llama")(tokens_of(pos=n)).shape == (2, n, 17)


def test_a_model_without_layers_is_a_bigram_model():
    model = model_of(config_of(n_layers=0, norm=None, positions=None))
    torch.testing.assert_close(model(TOKENS), model.W_E[TOKENS] @ model.W_U)
    assert torch.equal(model.generate(TOKENS, 2, do_sample=False, verbose=False)[:, 7], model(TOKENS)[:, -1].argmax(-1))


def test_a_decoder_needs_no_tokenizer_and_no_facade():
    decoder = Decoder(CONFIGS["llama"], seed=0)
    logits, cache = decoder.run(tokens_of("llama"), reads="pattern")
    assert logits.shape == (2, 7, 17) and len(cache) == 2
    torch.testing.assert_close(decoder(tokens_of("llama")), logits, rtol=0, atol=1e-5)


def test_what_a_run_shows_of_learned_positions_is_no_weight():
    model = model_of("gpt2")
    W_pos = model.W_pos.detach().clone()
    for tokens in (TOKENS, TOKENS[:1]):
        _, cache = model.run_with_cache(tokens)
        cache["hook_pos_embed"].zero_()
        for x in cache.values():
            x.zero_()
    assert torch.equal(model.W_pos, W_pos)


def test_a_cache_stays_as_it_is_when_the_weights_change():
    model = model_of("gpt2")
    _, cache = model.run_with_cache(TOKENS[:1])
    before = {name: x.clone() for name, x in cache.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert all(torch.equal(cache[name], x) for name, x in before.items())
