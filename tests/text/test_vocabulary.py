import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.base.errors import ArgumentError, TokenError
from pellucid.text.read import read_tokenizer
from pellucid.text.vocabulary import character_vocabulary, integer_vocabulary, word_vocabulary


@given(st.lists(st.integers(1, 63), max_size=20))
def test_numbers_are_their_own_ids(ids):
    tokenizer = integer_vocabulary(64)
    text = " ".join(map(str, ids))
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids) == text


def test_bos_has_a_name_and_may_be_written_by_its_number():
    tokenizer = integer_vocabulary(12, bos=10)
    assert tokenizer.bos_token == "<bos>"
    assert tokenizer.encode("<bos> 1 10 0 11") == tokenizer.encode("10 1 10 0 11") == [10, 1, 10, 0, 11]
    assert tokenizer.decode([10, 1]) == "<bos> 1"
    assert tokenizer.decode([10, 1], skip_special_tokens=True) == "1"


def test_bos_stands_before_numbers():
    batch = integer_vocabulary(64).tokens(["5 12", "7"])
    assert batch.tokens.tolist() == [[0, 5, 12], [0, 7, 0]]
    assert batch.mask.int().tolist() == [[1, 1, 1], [1, 1, 0]]


def test_numbers_without_bos_are_all_ordinary():
    tokenizer = integer_vocabulary(3, bos=None)
    assert tokenizer.policy.special_ids == frozenset()
    assert tokenizer.tokens(["0 1 2", "0"]).tokens.tolist() == [[0, 1, 2], [0, 0, 0]]


@pytest.mark.parametrize("text", ["64", "-1", "1.5", "5,6", "x", "01"])
def test_what_is_no_number_of_the_vocabulary_is_refused(text):
    with pytest.raises(TokenError, match=f"vocabulary's 64 tokens, got '3 {text}'"):
        integer_vocabulary(64).tokens(["1 2", f"3 {text}"])


def test_a_vocabulary_of_nothing_is_refused():
    with pytest.raises(ArgumentError, match="at least 1 token, got n=0"):
        integer_vocabulary(0)


@pytest.mark.parametrize("bos", [-1, 5])
def test_a_bos_outside_the_vocabulary_is_refused(bos):
    with pytest.raises(ArgumentError, match=f"one of the ids 0 to 4, or None for no BOS; got {bos}"):
        integer_vocabulary(5, bos=bos)


ALPHABET = "ab \n\t.é▁狗😀$0"


@given(st.text(ALPHABET, max_size=20))
def test_characters_are_their_own_tokens(text):
    plain, with_bos = character_vocabulary(ALPHABET), character_vocabulary(ALPHABET, bos="<bos>")
    assert plain.encode(text) == [ALPHABET.index(c) for c in text]
    assert plain.decode(plain.encode(text)) == with_bos.decode(with_bos.encode(text)) == text
    assert with_bos.tokens([text]).tokens.tolist() == [[0, *(ALPHABET.index(c) + 1 for c in text)]]


def test_an_unknown_character_is_refused():
    with pytest.raises(TokenError, match="vocabulary's 2 tokens, got 'abc'"):
        character_vocabulary("ab").encode("abc")


@pytest.mark.parametrize(
    ("characters", "found"),
    [("", "got 0 of them"), (["ab", "c"], r"not single: \['ab'\]"), ("aba", r"more than once: \['a'\]")],
)
def test_characters_must_be_single_and_distinct(characters, found):
    with pytest.raises(ArgumentError, match=found):
        character_vocabulary(characters)


@pytest.mark.parametrize("bos", ["", "a"])
def test_a_bos_must_have_a_name_of_its_own(bos):
    with pytest.raises(ArgumentError, match=f"no character of the vocabulary, got '{bos}'"):
        character_vocabulary("ab", bos=bos)


@pytest.mark.parametrize(
    "tokenizer",
    [
        integer_vocabulary(20, bos=3),
        integer_vocabulary(5, bos=None),
        character_vocabulary("0 1\n3", bos="<s>"),
    ],
)
def test_a_toy_is_read_again_as_it_was_saved(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = read_tokenizer(tmp_path)
    assert again.policy == tokenizer.policy
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.encode("0 1 3") == tokenizer.encode("0 1 3")
    assert again.strings(range(5)) == tokenizer.strings(range(5))


def test_words_and_marks_are_tokens():
    tokenizer = word_vocabulary(["When", "Mary", "left", ",", "."])
    assert tokenizer.tokens(["When Mary left, Mary left."]).tokens.tolist() == [[0, 1, 2, 3, 4, 2, 3, 5]]
    assert tokenizer.single(" Mary") == tokenizer.single("Mary") == 2
    with pytest.raises(TokenError, match="made of the vocabulary's 6 tokens, got 'When John left'"):
        tokenizer.encode("When John left")
    for words in ([], ["a", "a"], ["a b"], ["don't"], ["<bos>"]):
        with pytest.raises(ArgumentError, match="words must be one or more"):
            word_vocabulary(words)
