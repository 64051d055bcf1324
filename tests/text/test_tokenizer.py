"""The tokenizer itself, against transformers wherever that has an answer."""

import copy
import pickle
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.base.errors import ArgumentError, OutputError, TokenError
from pellucid.text.policy import TextPolicy, padding_mask
from pellucid.text.read import read_tokenizer
from pellucid.text.tokenizer import Tokenizer
from pellucid.text.vocabulary import integer_vocabulary
from tests.text.wordpiece import WORDPIECE

TEXTS = [
    "Hello world",
    " Once upon a time, there was a little girl named Lily.",
    "two\n\nlines\r\nand\ttabs   and spaces  ",
    "1234567890 3.14 1,000",
    "naïve café — “quotes” … ½ ﬁ Ⅷ",
    "日本語のテキスト 한국어 עברית العربية हिन्दी",
    "emoji 😀 👩‍👩‍👧 🏳️‍🌈 e\u0301",
    "it's we're they'd I'M DON'T",
    "<|endoftext|> in the midst <s> and </s> [CLS] [MASK]",
    "the dogs don't, running. a狗! É",
    "\x00\x07 control \u200b\u2028",
    " ",
]
KINDS = ["gpt2-tokenizer", "stories260k", "shakespeare-char-gpt", "wordpiece"]
property_test = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@lru_cache
def reference(kind, path):
    import transformers

    classes = {"gpt2-tokenizer": "GPT2TokenizerFast", "wordpiece": "BertTokenizerFast"}
    return getattr(transformers, classes.get(kind, "PreTrainedTokenizerFast")).from_pretrained(path)


@lru_cache
def ours(path):
    return read_tokenizer(path)


@pytest.fixture(scope="session")
def wordpiece_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("wordpiece")
    (path / "vocab.txt").write_text("\n".join(WORDPIECE) + "\n", "utf-8")
    return path


@pytest.fixture(params=KINDS)
def both(request, wordpiece_folder):
    """A tokenizer as Pellucid reads it, and as transformers does."""
    if request.param == "wordpiece":
        path = wordpiece_folder
    else:
        path = request.getfixturevalue("shared") / "data" / request.param
    return ours(path), reference(request.param, path)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_decoded_text_are_those_of_transformers(both, text):
    mine, theirs = both
    for special in (True, False):
        ids = theirs.encode(text, add_special_tokens=special)
        assert mine.encode(text, add_special_tokens=special) == ids
        for skip in (True, False):
            expected = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert mine.decode(ids, skip_special_tokens=skip) == expected
        assert mine.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)


@property_test
@given(st.text(max_size=40))
def test_ids_of_any_text_are_those_of_transformers(both, text):
    mine, theirs = both
    assert mine.encode(text) == theirs.encode(text)
    assert mine.decode(mine.encode(text)) == theirs.decode(theirs.encode(text))


@property_test
@given(st.text(max_size=40))
def test_gpt2_and_stories260k_give_any_text_back(gpt2, stories, text):
    for tokenizer in (gpt2, stories):
        ids = tokenizer.encode(text, add_special_tokens=False)
        # The decoder of stories260k takes one leading space away and its normalizer puts one there.
        assert tokenizer.decode(ids) == text
        assert tokenizer.batch_decode(torch.tensor([ids, ids])) == [text, text]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("tensors", [None, "pt", "np"])
def test_padded_batches_are_those_of_transformers(both, side, tensors):
    mine, theirs = (copy.deepcopy(tokenizer) for tokenizer in both)
    theirs.pad_token = mine.pad_token = mine.pad_token or mine.convert_ids_to_tokens(0)
    mine.padding_side = theirs.padding_side = side
    for options in (
        {"padding": True},
        {"padding": "longest", "add_special_tokens": False},
        {"padding": "max_length", "truncation": True, "max_length": 7},
        {"padding": True, "truncation": "longest_first", "max_length": 20},
    ):
        batch = mine(TEXTS, return_tensors=tensors, **options)
        expected = theirs(TEXTS, return_tensors=tensors, **options)
        for key in ("input_ids", "attention_mask"):
            plain = [x if tensors is None else x.tolist() for x in (batch[key], expected[key])]
            assert plain[0] == plain[1]
            assert type(batch[key]) is type(expected[key])


def test_one_text_is_called_as_in_transformers(both):
    mine, theirs = both
    for tensors in (None, "pt"):
        batch, expected = mine(TEXTS[0], return_tensors=tensors), theirs(TEXTS[0], return_tensors=tensors)
        assert torch.equal(torch.as_tensor(batch["input_ids"]), torch.as_tensor(expected["input_ids"]))
        assert torch.equal(torch.as_tensor(batch.attention_mask), torch.as_tensor(expected.attention_mask))
    assert mine(TEXTS).input_ids == theirs(TEXTS)["input_ids"]


def test_names_and_sizes_are_those_of_transformers(both):
    mine, theirs = both
    assert mine.get_vocab() == theirs.get_vocab()
    assert (mine.vocab_size, len(mine)) == (theirs.vocab_size, len(theirs))
    for name in ("eos_token", "eos_token_id"):
        assert getattr(mine, name) == getattr(theirs, name)
    if theirs.bos_token is not None:
        assert (mine.bos_token, mine.bos_token_id) == (theirs.bos_token, theirs.bos_token_id)
    if theirs.unk_token is not None:
        assert (mine.unk_token, mine.unk_token_id) == (theirs.unk_token, theirs.unk_token_id)
    some = list(theirs.get_vocab())[:20]
    assert mine.convert_tokens_to_ids(some) == theirs.convert_tokens_to_ids(some)
    assert mine.convert_ids_to_tokens(7) == theirs.convert_ids_to_tokens(7)
    assert mine.convert_ids_to_tokens([10**6]) == [None]


def test_an_unknown_name_has_the_id_of_unknown_text(stories):
    assert stories.convert_tokens_to_ids("no such name") == 0
    assert stories.convert_tokens_to_ids(["<s>", "no such name"]) == [1, 0]
    assert integer_vocabulary(4).convert_tokens_to_ids("9") is None


def test_spaces_before_marks_are_cleaned_up_when_asked(gpt2):
    ids = gpt2.encode("do n't , please . it 's fine !")
    assert gpt2.decode(ids, clean_up_tokenization_spaces=True) == "don't, please. it's fine!"
    assert gpt2.batch_decode([ids], clean_up_tokenization_spaces=True) == ["don't, please. it's fine!"]
    assert gpt2.decode(ids) == "do n't , please . it 's fine !"


def test_one_id_or_a_row_of_ids_is_decoded(gpt2):
    assert gpt2.decode(1757) == gpt2.decode([1757]) == gpt2.decode(torch.tensor([1757])) == " John"
    assert gpt2.batch_decode([1757, 11]) == gpt2.batch_decode(torch.tensor([[1757], [11]])) == [" John", ","]


def test_a_batch_of_rows_is_not_decoded_as_one(gpt2):
    with pytest.raises(ArgumentError, match="batch_decode takes many"):
        gpt2.decode(torch.tensor([[1757], [11]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "longets"}, "padding must be one of .* got 'longets'"),
        ({"truncation": "yes"}, "truncation must be one of .* got 'yes'"),
        ({"return_tensors": "tf"}, "return_tensors must be one of None, 'pt', 'np'; got 'tf'"),
        ({"max_length": 5}, "max_length=5 serves truncation=True"),
        ({"truncation": True}, "a length must be known here, and the tokenizer names none; give max_length"),
        ({"return_tensors": "pt"}, r"one length, got lengths \[1, 2\]; pass padding=True"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        integer_vocabulary(9)(["1 2", "3"], **options)


def test_the_length_that_the_configuration_names_is_used(gpt2):
    assert len(gpt2("a b" * 2000, truncation=True).input_ids) == 1024


def test_a_length_without_room_for_added_tokens_is_refused(wordpiece):
    tokenizer = read_tokenizer(wordpiece)
    assert tokenizer("the dog", truncation=True, max_length=2).input_ids == [2, 3]
    with pytest.raises(ArgumentError, match="must leave room for 2 added tokens, got 1"):
        tokenizer("the dog", truncation=True, max_length=1)


# What Pellucid uses


def test_tokens_have_bos_in_front_and_nothing_else_added(gpt2, stories, wordpiece):
    assert gpt2.tokens(["Hello world"]).tokens.tolist() == [[50256, 15496, 995]]
    assert stories.tokens([" he"]).tokens.tolist() == [[1, *stories.encode(" he", add_special_tokens=False)]]
    assert read_tokenizer(wordpiece).tokens(["the dog"]).tokens.tolist() == [[2, 5, 6]]


def test_bos_can_be_declined(gpt2, stories):
    assert gpt2.tokens(["Hello world"], prepend_bos=False).tokens.tolist() == [[15496, 995]]
    assert stories.tokens(["Once"], prepend_bos=False).tokens.tolist() == [[403]]


def test_bos_can_be_asked_for_against_the_policy(gpt2):
    tokenizer = copy.copy(gpt2)
    tokenizer.policy = replace(gpt2.policy, prepend_bos=False)
    assert tokenizer.tokens(["Hello"]).tokens.tolist() == [[15496]]
    assert tokenizer.tokens(["Hello"], prepend_bos=True).tokens.tolist() == [[50256, 15496]]


def test_a_bos_that_is_not_there_cannot_be_asked_for(characters):
    assert characters.tokens(["to be"]).tokens.shape == (1, 5)
    with pytest.raises(TokenError, match="prepend_bos=True needs a BOS token, and this tokenizer has none"):
        characters.tokens(["to be"], prepend_bos=True)


@pytest.mark.parametrize("text", ["<|endoftext|>", "<|endoftext|>When Mary and John went to the store"])
def test_a_doubled_bos_is_refused_with_the_pieces(gpt2, text):
    with pytest.raises(TokenError) as error:
        gpt2.tokens(["Fine", text])
    assert "['<|endoftext|>', '<|endoftext|>'" in str(error.value)
    assert "pass prepend_bos=False, or leave '<|endoftext|>' out of the text" in str(error.value)
    assert gpt2.tokens([text], prepend_bos=False).tokens[0, 0] == 50256


def test_a_bos_later_in_the_text_is_not_doubled(gpt2):
    assert gpt2.tokens(["a<|endoftext|>"]).tokens.tolist() == [[50256, 64, 50256]]


def test_an_empty_text_is_its_bos(gpt2):
    assert gpt2.tokens([""]).tokens.tolist() == [[50256]]


def test_an_empty_text_without_bos_is_refused(gpt2, characters):
    for tokenizer in (gpt2, characters):
        with pytest.raises(TokenError, match="a text without BOS must have at least one token, '' has none"):
            tokenizer.tokens(["a", ""], prepend_bos=False)


def test_no_text_at_all_is_refused(gpt2):
    with pytest.raises(ArgumentError, match="at least one text must be given"):
        gpt2.tokens([])


def test_a_string_alone_is_one_text(gpt2):
    assert torch.equal(gpt2.tokens("Hello").tokens, gpt2.tokens(["Hello"]).tokens)


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_row_of_a_padded_batch_is_the_row_alone(both, side):
    mine = both[0]
    ids = [mine.encode(text, add_special_tokens=False) for text in TEXTS]
    texts = [text for text, row in zip(TEXTS, ids, strict=True) if row and row[0] != mine.bos_token_id]
    batch = mine.tokens(texts, padding_side=side)
    assert batch.tokens.shape == batch.mask.shape
    for text, row, real in zip(texts, batch.tokens, batch.mask, strict=True):
        assert row[real].tolist() == mine.tokens([text]).tokens[0].tolist()
        assert (row[~real] == (mine.policy.pad_id or 0)).all()
        edges = real.int().diff()
        assert ((edges >= 0) if side == "left" else (edges <= 0)).all()


def test_the_mask_of_a_left_padded_batch_can_be_told_from_its_ids(gpt2, stories):
    for tokenizer in (gpt2, stories):
        batch = tokenizer.tokens(["a", "one two three", ""], padding_side="left")
        assert torch.equal(padding_mask(batch.tokens, tokenizer.policy, "left"), batch.mask)


def test_rows_are_cut_to_the_context_with_their_bos(gpt2):
    batch = gpt2.tokens(["one two three four", "one"], n_ctx=3)
    assert batch.tokens.tolist() == [[50256, *gpt2.encode("one two")], [50256, *gpt2.encode("one"), 50256]]
    assert batch.mask.int().tolist() == [[1, 1, 1], [1, 1, 0]]
    with pytest.raises(ArgumentError, match="n_ctx must be at least 1, got 0"):
        gpt2.tokens(["one"], n_ctx=0)


def test_text_that_is_not_unicode_is_refused(gpt2):
    with pytest.raises(TokenError, match=r"must be valid Unicode .* got '\\ud800'"):
        gpt2.tokens(["fine", "\ud800"])
    with pytest.raises(TokenError, match="must be valid Unicode"):
        gpt2.encode("\ud800")


def test_the_padding_side_is_set_as_people_do(gpt2):
    tokenizer, before = copy.copy(gpt2), gpt2.policy
    tokenizer.padding_side = "left"
    assert tokenizer.tokens(["a", "a b"]).mask.int().tolist() == [[0, 1, 1], [1, 1, 1]]
    assert tokenizer(["a", "a b"], padding=True).attention_mask == [[0, 1], [1, 1]]
    assert tokenizer.policy == replace(before, padding_side="left")
    assert gpt2.policy is before
    with pytest.raises(ArgumentError, match="padding_side must be"):
        tokenizer.padding_side = "centre"
    with pytest.raises(ArgumentError, match="padding_side must be"):
        tokenizer.tokens(["a"], padding_side="centre")


def test_the_pad_token_is_set_as_people_do(stories):
    tokenizer = copy.copy(stories)
    tokenizer.pad_token = "<unk>"
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<unk>", 0)
    assert tokenizer.tokens(["a", "a a"]).tokens[0, -1] == 0
    with pytest.raises(TokenError, match="pad_token must be in the vocabulary, '<pad>' is not"):
        tokenizer.pad_token = "<pad>"


def test_a_policy_of_another_vocabulary_is_refused():
    inner = integer_vocabulary(5).inner
    for policy in (TextPolicy.of(bos_id=5), TextPolicy.of(unk_id=5), TextPolicy.of(special_ids={5})):
        with pytest.raises(TokenError, match="must be in the vocabulary, 5 is not among its 5 tokens"):
            Tokenizer(inner, policy)


def test_a_saved_tokenizer_is_read_again_the_same(both, tmp_path):
    mine = copy.copy(both[0])
    for policy in (
        mine.policy,
        replace(mine.policy, prepend_bos=False, padding_side="left"),
        replace(mine.policy, pad_id=None),
    ):
        mine.policy = policy
        mine.save(tmp_path)
        again = read_tokenizer(tmp_path, bos_id=3, eos_id=4, pad_id=5)
        assert again.policy == policy
        assert again.get_vocab() == mine.get_vocab()
        assert again(TEXTS).input_ids == mine(TEXTS).input_ids
        assert again.strings(range(len(again)))[:600] == mine.strings(range(len(mine)))[:600]
    assert again.name_or_path == str(tmp_path)


def test_transformers_reads_a_saved_tokenizer(both, tmp_path):
    import transformers

    mine = both[0]
    mine.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert theirs(TEXTS)["input_ids"] == mine(TEXTS).input_ids
    assert (theirs.bos_token_id, theirs.eos_token_id) == (mine.bos_token_id, mine.eos_token_id)


def test_saving_leaves_other_files_of_the_folder_alone(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    integer_vocabulary(5).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="must be writable"):
        integer_vocabulary(5).save(tmp_path / "file" / "folder")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_tokenizer_can_be_copied_and_pickled(gpt2, duplicate):
    again = duplicate(gpt2)
    assert again.policy == gpt2.policy
    assert again.encode(TEXTS[4]) == gpt2.encode(TEXTS[4])
    again.padding_side = "left"
    assert gpt2.padding_side == "right"


def test_a_tokenizer_says_what_it_is():
    assert repr(integer_vocabulary(5)).startswith("Tokenizer(5 tokens, name_or_path='', TextPolicy(bos_id=0")


def test_importing_costs_neither_tokenizers_nor_transformers():
    code = (
        "import sys, pellucid.text.tokenizer, pellucid.text.read, pellucid.text.vocabulary\n"
        "print(sorted({'tokenizers', 'transformers'} & sys.modules.keys()))\n"
        "pellucid.text.vocabulary.integer_vocabulary(5)\n"
        "print(sorted({'tokenizers', 'transformers'} & sys.modules.keys()))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split("\n")[:2] == ["[]", "['tokenizers']"]
