"""`generate`: what the model says next."""

import pytest
import torch

from pellucid.base.errors import ArgumentError
from pellucid.text.policy import TextPolicy
from pellucid.text.tokenizer import Tokenizer
from pellucid.text.vocabulary import integer_vocabulary
from tests.models import CONFIGS, model_of, tokens_of, unchecked

QUIET = {"verbose": False}
GREEDY = {"do_sample": False, "stop_at_eos": False, **QUIET}
TEXTS = ["3 5 12", "4", "1 2 3 4 5 6"]


def ended_by(eos_id):
    """A vocabulary of numbers with BOS 0 and an end-of-sequence token."""
    plain = integer_vocabulary(17)
    return Tokenizer(plain.inner, TextPolicy(bos_id=0, eos_id=eos_id, pad_id=0, prepend_bos=True))


@pytest.fixture
def model():
    return model_of("gpt2", tokenizer=integer_vocabulary(17))


def argmax_loop(model, tokens, n):
    for _ in range(n):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("cached", [True, False])
def test_greedy_text_is_the_argmax_token_by_token(kind, cached):
    model = model_of(kind, tokenizer=integer_vocabulary(17))
    expected = argmax_loop(model, torch.tensor([[0, 3, 5]]), 6)
    found = model.generate("3 5", 6, use_past_kv_cache=cached, **GREEDY)
    assert found == model.to_string(expected[0, 1:])
    ids = model.generate(torch.tensor([[0, 3, 5]]), 6, use_past_kv_cache=cached, **GREEDY)
    assert torch.equal(ids, expected)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_batch_with_padding_says_what_each_row_says_alone(kind, cached):
    model = model_of(kind, dtype=torch.float64, tokenizer=integer_vocabulary(17))
    alone = [model.generate(text, 5, **GREEDY) for text in TEXTS]
    assert model.generate(TEXTS, 5, use_past_kv_cache=cached, **GREEDY) == alone
    ids = model.to_tokens(TEXTS, padding_side="left")
    found = model.generate(ids, 5, use_past_kv_cache=cached, **GREEDY)
    assert torch.equal(found[:, : ids.shape[1]], ids)
    for row, text in zip(found, alone, strict=True):
        assert model.to_string(row).endswith(text.split(" ", 1)[1])


def test_what_comes_out_is_of_the_kind_that_went_in_unless_told(model):
    tokens = torch.tensor([[0, 3, 5]])
    assert isinstance(model.generate("3 5", 2, **GREEDY), str)
    assert isinstance(model.generate(["3 5"], 2, **GREEDY), list)
    assert model.generate(tokens, 2, **GREEDY).shape == (1, 5)
    assert model.generate([0, 3, 5], 2, **GREEDY).shape == (1, 5)
    assert model.generate("3 5", 2, return_type="tokens", **GREEDY).shape == (1, 5)
    text = model.generate(tokens, 2, return_type="str", **GREEDY)
    assert text == "<bos> " + model.generate("3 5", 2, **GREEDY)
    assert model.generate(tokens.expand(2, 3), 2, return_type="str", **GREEDY) == [text, text]


def test_an_empty_text_begins_with_bos(model):
    expected = argmax_loop(model, torch.tensor([[0]]), 4)
    assert (
        model.generate("", 4, **GREEDY)
        == model.generate(max_new_tokens=4, **GREEDY)
        == model.to_string(expected[0, 1:])
    )


def test_without_bos_no_token_is_taken_off(model):
    text = model.generate("3 5", 2, prepend_bos=False, **GREEDY)
    assert text == model.to_string(argmax_loop(model, torch.tensor([[3, 5]]), 2)[0])


def test_a_seed_says_the_same_again(model):
    one, same, other = (model.generate("3", 12, seed=seed, **QUIET) for seed in (1, 1, 2))
    assert one == same != other
    torch.manual_seed(7)
    free = model.generate("3", 12, **QUIET)
    torch.manual_seed(7)
    assert model.generate("3", 12, **QUIET) == free
    assert model.generate("3", 12, temperature=0.0, **QUIET) == model.generate("3", 12, **GREEDY)
    assert model.generate("3", 12, top_k=1, **QUIET) == model.generate("3", 12, **GREEDY)


def test_a_cache_does_not_change_what_is_drawn():
    model = model_of("llama", dtype=torch.float64, tokenizer=integer_vocabulary(17))
    drawn = [model.generate(TEXTS, 8, seed=3, use_past_kv_cache=cached, **QUIET) for cached in (True, False)]
    assert drawn[0] == drawn[1]


def test_penalties_keep_it_from_repeating_itself(model):
    plain = model.generate("3", 14, return_type="tokens", **GREEDY)[0].tolist()
    assert len(set(plain)) < 12
    found = model.generate("3", 14, return_type="tokens", freq_penalty=1e4, **GREEDY)[0].tolist()
    assert len(set(found)) == 16
    found = model.generate("3", 14, return_type="tokens", repetition_penalty=1e4, **GREEDY)[0].tolist()
    assert len(set(found)) > len(set(plain))


def test_it_stops_at_the_end_of_sequence_unless_told_not_to():
    plain = model_of("gpt2", tokenizer=integer_vocabulary(17))
    said = plain.generate("3 5", 6, return_type="tokens", **GREEDY)[0].tolist()
    eos = said[4]
    model = model_of("gpt2", tokenizer=ended_by(eos))
    greedy = {"do_sample": False, **QUIET}
    found = model.generate("3 5", 6, return_type="tokens", **greedy)[0].tolist()
    assert found == said[: said.index(eos) + 1]
    assert model.generate("3 5", 6, return_type="tokens", stop_at_eos=False, **greedy)[0].tolist() == said
    assert plain.generate("3 5", 6, return_type="tokens", eos_token_id=eos, **greedy)[0].tolist() == found
    assert plain.generate("3 5", 6, return_type="tokens", **greedy)[0].tolist() == said


def test_rows_of_a_batch_that_ended_are_filled_up_and_their_text_ends_there():
    plain = model_of("gpt2", dtype=torch.float64, tokenizer=integer_vocabulary(17))
    ids = plain.generate(TEXTS, 5, return_type="tokens", **GREEDY)
    eos = int(ids[0, -4])
    model = model_of("gpt2", dtype=torch.float64, tokenizer=ended_by(eos))
    greedy = {"do_sample": False, **QUIET}
    texts = model.generate(TEXTS, 5, **greedy)
    assert texts == [model.generate(text, 5, **greedy) for text in TEXTS]
    found = model.generate(TEXTS, 5, return_type="tokens", **greedy)
    first = found[0, 7:].tolist().index(eos)
    assert first <= 1
    assert (found[0, 7 + first :] == eos).all()


@pytest.mark.parametrize("cached", [True, False])
def test_hooks_join_every_step(model, cached):
    shapes = []

    def silence(z, hook):
        shapes.append(z.shape[1])
        z[:] = 0

    found = model.generate("3 5", 4, fwd_hooks=[(("z", 0), silence)], use_past_kv_cache=cached, **GREEDY)
    assert shapes == ([3, 1, 1, 1] if cached else [3, 4, 5, 6])
    assert model.board == []
    with model.hooks(fwd_hooks=[(("z", 0), silence)]):
        assert model.generate("3 5", 4, **GREEDY) == found
    assert model.generate("3 5", 4, **GREEDY) == model_of("gpt2", tokenizer=model.tokenizer).generate(
        "3 5", 4, **GREEDY
    )


def test_it_fills_the_context_and_no_more(model):
    assert model.generate(tokens_of(pos=6), 10, **GREEDY).shape == (2, 16)
    with pytest.raises(
        ArgumentError, match=r"prompt and new tokens must fit n_ctx=16, got 6 \+ 11; ask for fewer, or shorten"
    ):
        model.generate(tokens_of(pos=6), 11, **GREEDY)


def test_nothing_new_is_allowed(model):
    assert torch.equal(model.generate(tokens_of(), 0, **GREEDY), tokens_of())
    assert model.generate("3 5", 0, **GREEDY) == "3 5"


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"return_type": "ids"}, "return_type must be 'input', 'str' or 'tokens', got 'ids'"),
        ({"padding_side": "right"}, "padding_side must be 'left', got 'right'"),
        ({"top_k": 0}, "top_k must be 1 or more"),
        ({"temperature": -1.0}, "temperature must be 0 or more"),
        ({"max_new_tokens": -1}, "max_new_tokens must be 0 or more, got -1"),
    ],
)
def test_arguments_that_cannot_be_are_refused(model, arguments, said):
    with unchecked(), pytest.raises(ArgumentError, match=said):
        model.generate("3", **arguments)


def test_a_progress_bar_is_shown_where_somebody_looks(model, capfd, monkeypatch):
    loud = GREEDY | {"verbose": True}
    text = model.generate("3", 4, **GREEDY)
    assert model.generate("3", 4, **loud) == text
    assert capfd.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert model.generate("3", 4, **loud) == text
    shown = capfd.readouterr()
    assert "tokens" in shown.err and shown.out == ""
    assert model.generate("3", 4, **GREEDY) == text
    assert capfd.readouterr().err == ""


def test_it_leaves_grad_mode_and_tokenizer_as_they_were(model):
    model.generate(TEXTS, 2, **GREEDY)
    assert torch.is_grad_enabled()
    assert model.tokenizer.padding_side == "right"
