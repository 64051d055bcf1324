"""Text to tokens and back, as everybody calls it on a model."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from pellucid import HookedTransformer
from pellucid.base.errors import ArgumentError, MisreadWarning, TokenError
from pellucid.text.vocabulary import character_vocabulary, integer_vocabulary
from tests.models import config_of, model_of, unchecked


@pytest.fixture
def model():
    return model_of("gpt2", tokenizer=integer_vocabulary(17))


@pytest.fixture
def letters():
    return model_of("gpt2", tokenizer=character_vocabulary("abcdefghijklmnop"))


def test_text_becomes_tokens_with_bos_as_the_policy_says(model, letters):
    assert model.to_tokens("3 5 12").tolist() == [[0, 3, 5, 12]]
    assert model.to_tokens("3 5 12", prepend_bos=False).tolist() == [[3, 5, 12]]
    assert letters.to_tokens("abc").tolist() == [[0, 1, 2]]
    assert model.to_tokens("").tolist() == [[0]]


def test_several_texts_are_padded_where_the_call_or_the_policy_says(model):
    texts = ["3", "4 5 6"]
    assert model.to_tokens(texts).tolist() == [[0, 3, 0, 0], [0, 4, 5, 6]]
    assert model.to_tokens(texts, padding_side="left").tolist() == [[0, 0, 0, 3], [0, 4, 5, 6]]
    model.tokenizer.padding_side = "left"
    assert model.to_tokens(texts).tolist() == [[0, 0, 0, 3], [0, 4, 5, 6]]
    assert model.policy.padding_side == "left"


def test_the_mask_tells_tokens_from_padding(model):
    found = model.encoded(["3", "4 5 6"], padding_side="left")
    assert found.mask.tolist() == [[False, False, True, True], [True] * 4]
    assert found.tokens.device == found.mask.device == model.device


def test_text_longer_than_the_context_is_cut_and_that_is_said(model):
    text = " ".join(["3"] * 20)
    with pytest.warns(MisreadWarning, match="the longest text has 21 tokens; .* cut"):
        assert model.to_tokens(text).shape == (1, 16)
    assert model.to_tokens(text, truncate=False).shape == (1, 21)
    assert len(model.to_str_tokens(text)) == 21


def test_a_doubled_bos_is_refused(model):
    with pytest.raises(TokenError, match="BOS must stand once, and the text begins with it already: .*<bos>"):
        model.to_tokens("<bos> 3")
    assert model.to_tokens("<bos> 3", prepend_bos=False).tolist() == [[0, 3]]


def test_tokens_become_text_again(model, letters):
    assert model.to_string([3, 5]) == "3 5"
    assert model.to_string(torch.tensor([3, 5])) == "3 5"
    assert model.to_string(np.array([[3, 5], [4, 6]])) == ["3 5", "4 6"]
    assert model.to_string(torch.tensor(3)) == "3"
    assert letters.to_string(letters.to_tokens(["abc", "bca"])) == ["abc", "bca"]
    with pytest.raises(ArgumentError, match=r"tokens must be \[pos\] or \[batch pos\], got \[1, 1, 1\]"):
        model.to_string([[[3]]])


def test_each_token_as_a_string(model):
    assert model.to_str_tokens("3 5") == ["<bos>", "3", "5"]
    assert model.to_str_tokens("3 5", prepend_bos=False) == ["3", "5"]
    assert model.to_str_tokens(["3 5", "4"]) == [["<bos>", "3", "5"], ["<bos>", "4"]]
    for ids in (torch.tensor([3, 5]), torch.tensor([[3, 5]]), np.array([3, 5]), [3, 5], [[3, 5]], (3, 5)):
        assert model.to_str_tokens(ids) == ["3", "5"]
    with pytest.raises(ArgumentError, match=r"ids of one prompt, \[pos\] or \[1 pos\], got \[2, 1\]"):
        model.to_str_tokens(torch.tensor([[3], [5]]))
    with pytest.raises(ArgumentError, match="whole numbers, got torch.float32"):
        model.to_str_tokens(torch.ones(2))


def test_a_single_token_goes_there_and_back(model, letters):
    assert model.to_single_token("12") == 12
    assert model.to_single_str_token(12) == "12"
    assert model.to_single_str_token(torch.tensor(12).item()) == "12"
    with pytest.raises(TokenError, match="12.*5|one token"):
        model.to_single_token("12 5")
    with pytest.raises(TokenError):
        letters.to_single_token("ab")


def test_where_a_token_stands(model):
    text = "3 5 3 7"
    assert model.get_token_position("3", text) == 1
    assert model.get_token_position("3", text, mode="last") == 3
    assert model.get_token_position(3, text, prepend_bos=False) == 0
    assert model.get_token_position("7", torch.tensor([[4, 7]])) == 1
    assert model.get_token_position(7, [4, 7]) == 1
    with pytest.raises(
        TokenError, match=r"the token '9' must occur in the prompt, which is \['<bos>', '3', '5', '3', '7'\]"
    ):
        model.get_token_position("9", text)
    with unchecked(), pytest.raises(ArgumentError, match="mode must be 'first' or 'last', got 'any'"):
        model.get_token_position("3", text, mode="any")


def test_the_direction_of_a_token_is_its_column_of_W_U(model):
    expected = model.W_U[:, 5]
    for given in ("5", 5, torch.tensor(5), torch.tensor([5]), torch.tensor([[5]])):
        assert torch.equal(model.tokens_to_residual_directions(given), expected)
    several = torch.tensor([[5, 6, 7], [1, 2, 3]])
    found = model.tokens_to_residual_directions(several)
    assert found.shape == (2, 3, 10)
    assert torch.equal(found[1, 2], model.W_U[:, 3])
    assert torch.equal(model.tokens_to_residual_directions(torch.tensor([5, 6])), model.W_U.T[[5, 6]])


def test_a_model_without_tokenizer_says_so_when_text_is_given():
    model = model_of("gpt2")
    assert model.tokenizer is None and model.policy is None
    for call in (
        lambda: model("3 5"),
        lambda: model.to_tokens("3"),
        lambda: model.to_string([3]),
        lambda: model.to_str_tokens([3]),
        lambda: model.to_single_token("3"),
        lambda: model.generate("3"),
        lambda: model.generate(),
        lambda: model.run("3 5"),
    ):
        with pytest.raises(
            TokenError, match="text needs a tokenizer, and this model came without one; give token ids, or set"
        ):
            call()
    model.tokenizer = integer_vocabulary(17)
    assert model("3 5").shape == (1, 3, 17)


def test_a_tokenizer_is_read_when_it_is_first_needed_and_once():
    reads = []

    def read():
        reads.append(1)
        return integer_vocabulary(17)

    model = model_of("gpt2", tokenizer=read)
    model(torch.tensor([[1, 2]]))
    model.run_with_cache(torch.tensor([[1, 2]]))
    copy.deepcopy(model)
    assert reads == []
    assert model("3").shape == (1, 2, 17)
    assert model.tokenizer is model.tokenizer
    assert reads == [1]


def test_a_reader_that_finds_no_tokenizer_is_asked_once():
    reads = []
    model = model_of("gpt2", tokenizer=lambda: reads.append(1))
    for _ in range(2):
        with pytest.raises(TokenError, match="text needs a tokenizer"):
            model("3")
    assert reads == [1]


def test_the_default_padding_side_is_the_models_own_and_changes_no_tokenizer():
    tokenizer = integer_vocabulary(17)
    left = HookedTransformer(config_of(), tokenizer, default_padding_side="left", device="cpu")
    lazily = HookedTransformer(config_of(), lambda: tokenizer, default_padding_side="left", device="cpu")
    assert left.tokenizer.padding_side == lazily.tokenizer.padding_side == "left"
    assert tokenizer.padding_side == "right"
    own = integer_vocabulary(17)
    own.policy = replace(own.policy, padding_side="left")
    assert HookedTransformer(config_of(), own, device="cpu").tokenizer.padding_side == "left"
    assert (
        HookedTransformer(config_of(), own, default_padding_side="right", device="cpu").tokenizer.padding_side
        == "right"
    )


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copied_model_has_its_tokenizer(model, copied):
    other = copied(model)
    assert torch.equal(other("3 5"), model("3 5"))
    other.tokenizer.padding_side = "left"
    assert model.tokenizer.padding_side == "right"


def test_tokens_go_where_the_model_is(model):
    model.to("meta")
    assert model.to_tokens("3 5").device.type == "meta"


def test_a_call_may_say_whether_bos_stands_in_front_of_ids(model):
    tokens = torch.tensor([[0, 0, 5], [3, 5, 6]])
    for front, expected in ((None, [False, True, True]), (False, [False, False, True])):
        assert model.real_tokens(tokens, "left", front).tolist() == [expected, [True] * 3]
        masked = model(tokens, prepend_bos=front, padding_side="left")
        given = model(tokens, attention_mask=torch.tensor([expected, [True] * 3]))
        assert torch.equal(masked[:, -1], given[:, -1])


@pytest.mark.parametrize(
    "tokens, said",
    [
        ([[1, 2], [3]], r"tokens must be ids, in rows of one length, got \[\[1, 2\], \[3\]\]; to_tokens makes ids"),
        ("abc", "tokens must be ids, in rows of one length, got 'abc'; to_tokens makes ids of text"),
        (None, "tokens must be ids, in rows of one length, got None"),
        ([1.0, 2.0], r"tokens must be ids, which are whole numbers, got torch.float64 \[2\]"),
        (torch.tensor([True]), "which are whole numbers, got torch.bool"),
    ],
)
def test_what_are_no_ids_is_refused_everywhere(model, tokens, said):
    for ask in [model.to_string] if isinstance(tokens, str) else [model.to_string, model.to_str_tokens, model]:
        with unchecked(), pytest.raises(ArgumentError, match=said):
            ask(tokens)


def test_directions_are_those_of_ids_in_any_form_and_of_no_others(model):
    assert torch.equal(model.tokens_to_residual_directions([1, 2]), model.W_U.T[[1, 2]])
    assert model.tokens_to_residual_directions(3).shape == (10,)
    for outside in (99999, -1, [1, 17]):
        with pytest.raises(TokenError, match=r"token ids must lie in 0\.\.16, got"):
            model.tokens_to_residual_directions(outside)


class GPT2Tokenizer:
    """As transformers has it: it can be called."""

    def __call__(self, text):
        return {"input_ids": [0]}

    def encode(self, text):
        return [0]


def test_a_tokenizer_of_another_library_is_refused(model):
    said = r"tokenizer must be a pellucid Tokenizer, got GPT2Tokenizer; pellucid.text.read.read_tokenizer\(folder\)"
    with unchecked():
        with pytest.raises(ArgumentError, match=said):
            HookedTransformer(config_of(), GPT2Tokenizer(), device="cpu")
        with pytest.raises(ArgumentError, match=said):
            model.tokenizer = GPT2Tokenizer()
        with pytest.raises(ArgumentError, match=said):
            HookedTransformer.from_pretrained("toy-induction", tokenizer=GPT2Tokenizer())
    assert model.to_tokens("3").tolist() == [[0, 3]]
