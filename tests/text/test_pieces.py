"""Each token as text, and text as one token, over whole vocabularies."""

import re

import numpy as np
import pytest
import torch

from pellucid.base.errors import ArgumentError, TokenError
from pellucid.text.read import read_tokenizer
from pellucid.text.vocabulary import character_vocabulary, integer_vocabulary
from tests.text.wordpiece import WORDPIECE


def found_again(tokenizer):
    """Of every token: its text, and what `single` makes of that (None: no single token)."""
    texts = tokenizer.strings(range(len(tokenizer)))
    for i, text in enumerate(texts):
        try:
            yield i, text, tokenizer.single(text)
        except TokenError:
            yield i, text, None


def test_every_token_of_gpt2_but_partial_characters_is_found_by_its_text(gpt2):
    lost = [(i, text) for i, text, again in found_again(gpt2) if again != i]
    assert all("\ufffd" in text for _, text in lost)
    assert len(lost) == 344


def test_every_token_of_stories260k_but_shadowed_bytes_is_found_by_its_text(stories):
    lost = [(i, text, again) for i, text, again in found_again(stories) if again != i]
    # Bytes that are no character of their own, and bytes for which the vocabulary has a token as well.
    assert all(re.fullmatch("<0x..>", stories.convert_ids_to_tokens(i)) for i, _, _ in lost)
    halves = [i for i, text, _ in lost if text == "\ufffd"]
    shadowed = [(text, again) for _, text, again in lost if text != "\ufffd"]
    assert len(halves) == 128
    assert len(shadowed) == 88
    assert all(stories.convert_ids_to_tokens(again).replace("▁", " ") == text for text, again in shadowed)


def test_every_character_is_found_by_itself(characters):
    assert all(i == again for i, _, again in found_again(characters))


def test_every_wordpiece_that_can_be_written_is_found_by_its_name(wordpiece):
    tokenizer = read_tokenizer(wordpiece)
    assert tokenizer.strings(range(len(tokenizer))) == WORDPIECE
    # This vocabulary takes accents away, so that its é stands for nothing.
    assert [text for i, text, again in found_again(tokenizer) if i != again] == ["é"]


@pytest.mark.parametrize("tokenizer", [integer_vocabulary(30), character_vocabulary("ab \n1", bos="<bos>")])
def test_every_token_of_a_toy_is_found_by_its_text(tokenizer):
    assert all(i == again for i, _, again in found_again(tokenizer))


def test_a_token_shows_its_leading_space(gpt2, stories):
    assert gpt2.strings([1757, 11, 4874]) == [" John", ",", " Once"]
    assert stories.strings([403, 260]) == [" Once", "he"]


@pytest.mark.parametrize("text", ["Hello, world! 12\n\n  two", " naïve\tcafé", "", "   ", "a"])
def test_the_strings_of_a_text_put_together_are_the_text(gpt2, characters, text):
    assert "".join(gpt2.strings(gpt2.encode(text))) == text
    shakespearean = "".join(c for c in text if c in characters.get_vocab())
    assert "".join(characters.strings(characters.encode(shakespearean))) == shakespearean


def test_the_strings_of_a_sentencepiece_text_have_the_space_that_was_put_before_it(stories):
    text = "Once upon a time\nthere was 1 é"
    assert "".join(stories.strings(stories.encode(text, add_special_tokens=False))) == " " + text


def test_parts_of_a_character_are_shown_as_replacement_characters(gpt2, stories):
    assert gpt2.strings(gpt2.encode("😀")) == ["\ufffd", "\ufffd"]
    assert stories.strings(stories.encode("😀", add_special_tokens=False)) == [" ", *["\ufffd"] * 4]


def test_special_tokens_give_their_own_name(gpt2, stories):
    assert gpt2.strings([50256]) == ["<|endoftext|>"]
    assert stories.strings([0, 1, 2]) == ["<unk>", "<s>", "</s>"]
    assert stories.single("</s>") == 2


def test_a_vocabulary_without_anything_to_stand_behind_is_decoded_token_by_token():
    tokenizer = character_vocabulary("\n\t ")
    assert tokenizer.strings([0, 1, 2]) == ["\n", "\t", " "]


def test_ids_beyond_the_vocabulary_are_shown_as_ids(gpt2):
    assert gpt2.strings([50300, 11]) == ["<id 50300>", ","]


@pytest.mark.parametrize("ids", [torch.tensor([5, 6]), np.array([5, 6]), [5, 6], (5, 6)])
def test_ids_may_be_a_list_or_a_row(ids):
    assert integer_vocabulary(9).strings(ids) == ["5", "6"]


@pytest.mark.parametrize("one", [5, torch.tensor(5)])
def test_one_id_is_a_row_of_one(one):
    assert integer_vocabulary(9).strings(one) == ["5"]


def test_several_rows_are_refused():
    with pytest.raises(ArgumentError, match=r"must be one row, got shape \[2, 3\]"):
        integer_vocabulary(9).strings(torch.zeros(2, 3, dtype=torch.int64))


def test_an_id_below_zero_is_refused(gpt2):
    for use in (gpt2.strings, gpt2.decode, gpt2.convert_ids_to_tokens):
        with pytest.raises(TokenError, match="a token id must not be below 0, got -100"):
            use([3, -100])


def test_a_word_is_one_token_with_its_space(gpt2, stories):
    assert gpt2.single(" John") == 1757
    assert gpt2.single("John") == 7554
    assert stories.single(" Once") == 403


def test_with_and_without_a_space_are_two_tokens_where_both_exist(stories):
    names = ["▁he", "he"]
    assert [stories.single(" he"), stories.single("he")] == stories.convert_tokens_to_ids(names)


def test_a_word_that_has_no_token_without_space_is_what_a_text_begins_with(stories):
    assert stories.single("Once") == 403 == stories.tokens(["Once"]).tokens[0, 1]


def test_a_text_of_several_tokens_is_refused_with_its_pieces(gpt2, stories):
    with pytest.raises(TokenError, match=r"exactly one token, ' serendipitous' is 4: \[' se', 'rend', 'ip', 'itous'\]"):
        gpt2.single(" serendipitous")
    with pytest.raises(TokenError, match=r"' John' is 5: \[' ', 'J', 'o', 'h', 'n'\]"):
        stories.single(" John")


def test_no_text_is_not_one_token(gpt2, stories):
    for tokenizer in (gpt2, stories):
        with pytest.raises(TokenError, match=r"'' is 0: \[\]"):
            tokenizer.single("")


def test_unknown_text_is_not_the_token_that_stands_for_it(characters, wordpiece):
    with pytest.raises(TokenError, match=r"'é' is not: it becomes \[' '\], which stands for all unknown text"):
        characters.single("é")
    assert characters.single(" ") == 1
    with pytest.raises(TokenError, match=r"'cat' is not: it becomes \['\[UNK\]'\]"):
        read_tokenizer(wordpiece).single("cat")
    assert read_tokenizer(wordpiece).single("[UNK]") == 1


def test_an_uncased_vocabulary_takes_a_word_in_capitals(wordpiece):
    assert read_tokenizer(wordpiece).single("Dog") == WORDPIECE.index("dog")
