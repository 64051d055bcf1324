from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid import AttentionConfig, Config, HookedTransformer
from pellucid.analysis.repeated import (
    RepeatedTokens,
    default_seq_len,
    halves,
    predictions,
    repeated_tokens,
    unrepeated_tokens,
)
from pellucid.base.errors import ArgumentError, TokenError
from pellucid.text.vocabulary import character_vocabulary, integer_vocabulary


def test_bos_stands_in_front_and_the_second_half_is_the_first(make_model):
    made = repeated_tokens(make_model(), seq_len=7, batch=5)
    assert made.tokens.shape == (5, 15)
    assert (made.tokens[:, 0] == 0).all()
    assert torch.equal(made.tokens[:, 1:8], made.tokens[:, 8:])
    assert (made.start, made.middle, made.bos) == (1, 8, True)


@pytest.mark.parametrize("changes", [{"bos": None}, {"tokenizer": False}])
def test_a_model_without_bos_gets_none(make_model, changes):
    made = repeated_tokens(make_model(**changes), seq_len=7, batch=5)
    assert made.tokens.shape == (5, 14)
    assert (made.start, made.middle, made.bos) == (0, 7, False)


def test_a_policy_that_leaves_bos_out_is_followed(make_model):
    model = make_model()
    model.tokenizer.policy = replace(model.tokenizer.policy, prepend_bos=False)
    made = repeated_tokens(model, seq_len=7)
    assert not made.bos
    assert (made.tokens != 0).all()


@pytest.mark.parametrize(("n_ctx", "length"), [(24, 11), (25, 12), (64, 31), (101, 50), (1024, 50)])
def test_the_default_length_of_a_half_fits_the_context_and_is_at_most_fifty(make_model, n_ctx, length):
    model = make_model(n_ctx=n_ctx, d_vocab=200)
    assert default_seq_len(model) == length
    assert repeated_tokens(model, batch=1).seq_len == length


def test_without_bos_the_default_length_is_the_same(make_model):
    assert repeated_tokens(make_model(bos=None, n_ctx=64), batch=1).tokens.shape == (1, 62)


def test_tokens_of_a_prompt_are_all_different_where_the_vocabulary_allows(make_model):
    made = repeated_tokens(make_model(d_vocab=12), seq_len=11, batch=20)
    assert all(len(set(row.tolist())) == 12 for row in made.tokens)


def test_a_small_vocabulary_is_drawn_from_with_replacement(make_model):
    made = repeated_tokens(make_model(d_vocab=5), seq_len=11, batch=20)
    assert set(made.tokens[:, 1:].flatten().tolist()) == {1, 2, 3, 4}


def test_the_article_draws_with_replacement(make_model):
    made = repeated_tokens(make_model(d_vocab=40), seq_len=11, batch=50, rule="article")
    assert any(len(set(row[1:12].tolist())) < 11 for row in made.tokens)
    assert (made.tokens[:, 1:] != 0).all()


def test_special_tokens_are_never_drawn(make_model):
    model = make_model(d_vocab=14, bos=3)
    model.tokenizer.policy = replace(model.tokenizer.policy, special_ids=frozenset({5, 6}), eos_id=7)
    made = repeated_tokens(model, seq_len=10, batch=50)
    assert set(made.tokens[:, 1:].flatten().tolist()) == set(range(14)) - {3, 5, 6, 7}


def test_ids_beyond_the_tokenizer_or_the_logits_are_never_drawn(make_model):
    padded = make_model(d_vocab=30)
    padded.tokenizer = integer_vocabulary(12)
    assert repeated_tokens(padded, seq_len=11).tokens.max() == 11
    narrow = make_model(d_vocab=30, d_vocab_out=9)
    assert repeated_tokens(narrow, seq_len=8).tokens.max() == 8


def test_the_same_seed_draws_the_same_tokens(make_model):
    first, again, other = (repeated_tokens(make_model(), seed=seed).tokens for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_control_shares_the_first_half_and_no_token_of_the_second(make_model):
    repeated, control = (make(make_model(), seq_len=11, batch=20) for make in (repeated_tokens, unrepeated_tokens))
    assert torch.equal(repeated.tokens[:, :12], control.tokens[:, :12])
    assert all(len(set(row.tolist())) == 23 for row in control.tokens)
    assert not control.repeated and not control.matches.any()


def test_the_control_of_a_small_vocabulary_knows_its_accidental_matches(make_model):
    control = unrepeated_tokens(make_model(d_vocab=12), seq_len=11, batch=50)
    assert torch.equal(control.matches, control.tokens[:, 1:12] == control.tokens[:, 12:])
    assert control.matches.any()
    assert not control.matches.all(dim=1).any()


@given(length=st.integers(2, 6), seed=st.integers(0, 1000))
def test_a_control_is_never_a_repetition_however_few_tokens_there_are(length, seed):
    config = Config(n_layers=0, d_model=4, d_vocab=3, n_ctx=16, attention=AttentionConfig(n_heads=1, d_head=4))
    model = HookedTransformer(config, integer_vocabulary(3), seed=0, device="cpu")
    control = unrepeated_tokens(model, seq_len=length, batch=4, seed=seed)
    assert not control.matches.all(dim=1).any()


@pytest.mark.parametrize(("bos", "length", "room"), [(0, 12, 11), (None, 13, 12), (0, 1, 11), (0, 0, 11)])
def test_a_length_that_does_not_fit_is_refused_with_what_would(make_model, bos, length, room):
    with pytest.raises(ArgumentError, match=rf"seq_len must lie in 2\.\.{room}.*n_ctx=24, got {length}"):
        repeated_tokens(make_model(bos=bos), seq_len=length)


def test_no_prompt_is_refused(make_model):
    with pytest.raises(ArgumentError, match="batch must be 1 or more prompts, got 0"):
        repeated_tokens(make_model(), batch=0)


def test_an_unknown_rule_is_refused_with_the_nearest(make_model):
    with pytest.raises(ArgumentError, match="got 'articel'; nearest: article"):
        repeated_tokens(make_model(), rule="articel")


def test_a_vocabulary_of_special_tokens_alone_is_refused():
    config = Config(n_layers=0, d_model=4, d_vocab=2, n_ctx=16, attention=AttentionConfig(n_heads=1, d_head=4))
    model = HookedTransformer(config, character_vocabulary("a", bos="<bos>"), seed=0, device="cpu")
    with pytest.raises(TokenError, match="2 or more ordinary tokens for random ones, got 1 of 2"):
        repeated_tokens(model)


def test_tokens_that_do_not_repeat_are_no_repeated_tokens():
    tokens = torch.tensor([[0, 1, 2, 3, 1, 2, 4]])
    with pytest.raises(ArgumentError, match="a control says repeated=False"):
        RepeatedTokens(tokens, seq_len=3, bos=True)
    assert RepeatedTokens(tokens, seq_len=3, bos=True, repeated=False).matches.tolist() == [[True, True, False]]


@pytest.mark.parametrize(("length", "bos"), [(3, False), (2, True), (1, True)])
def test_tokens_of_another_length_are_refused(length, bos):
    with pytest.raises(ArgumentError, match=f"got 7 tokens and seq_len={length}"):
        RepeatedTokens(torch.tensor([[0, 1, 2, 3, 1, 2, 3]]), seq_len=length, bos=bos)


def test_predictions_are_those_of_the_logits(make_model):
    model = make_model()
    made = repeated_tokens(model, seq_len=5, batch=4)
    said = predictions(model, made)
    log_probs = model(made.tokens).log_softmax(-1)
    for prompt in range(4):
        for pos in range(1, 11):
            token = int(made.tokens[prompt, pos])
            right = log_probs[prompt, pos - 1].argmax() == token
            cell = {"prompt": prompt, "pos": pos}
            assert said.logprob.sel(**cell).item() == pytest.approx(log_probs[prompt, pos - 1, token].item(), abs=1e-5)
            assert said.accuracy.sel(**cell).item() == right
    np.testing.assert_array_equal(said.loss.values, -said.logprob.values)
    assert [part.unit for part in said] == ["nats", "nats", "fraction"]
    assert said.loss.dims == ("prompt", "pos")


def test_the_batch_may_be_read_in_parts(make_model, monkeypatch):
    model = make_model()
    made = repeated_tokens(model, seq_len=5, batch=7)
    whole = predictions(model, made).loss.values
    monkeypatch.setattr("pellucid.analysis.reading.NUMBERS", 2 * 11 * 40)
    np.testing.assert_allclose(predictions(model, made).loss.values, whole, atol=1e-5)


@pytest.mark.parametrize(
    ("bos", "rule", "first", "second"),
    [
        (0, None, range(1, 6), range(7, 11)),
        (0, "article", range(1, 6), range(6, 11)),
        (None, None, range(1, 5), range(6, 10)),
        (None, "article", range(1, 5), range(5, 10)),
    ],
)
def test_the_second_half_leaves_out_its_first_token_unless_the_article_asks(make_model, bos, rule, first, second):
    model = make_model(bos=bos)
    made = repeated_tokens(model, seq_len=5, batch=4, rule=rule)
    loss = predictions(model, made).loss
    for half, positions in zip(halves(loss, made), (first, second), strict=True):
        expected = loss.values[:, [p - 1 for p in positions]].astype(np.float64).mean(1)
        np.testing.assert_allclose(half.values, expected)
        assert half.dims == ("prompt",)


def test_the_record_tells_how_the_tokens_were_made(make_model):
    model = make_model()
    record = predictions(model, repeated_tokens(model, seq_len=5, batch=4, seed=9)).loss.record
    assert (record.seed, record.device, record.dtype) == (9, "cpu", "float32")
    assert record.settings == {"seq_len": 5, "batch": 4, "bos": True, "rule": None, "repeated": True}
