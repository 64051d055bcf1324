"""Vocabularies that are learned from text."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.base.errors import ArgumentError, ConfigError
from pellucid.text.learn import LearnedVocabulary
from pellucid.text.made import MadeText
from pellucid.text.read import read_tokenizer

DOCUMENTS = list(MadeText(documents=40))
KINDS = ["BPE", "WordPiece"]


BYTE_PAIRS = LearnedVocabulary(size=400).learned(DOCUMENTS)


@given(st.text(max_size=40))
def test_with_byte_pairs_every_text_comes_back(text):
    ids = BYTE_PAIRS.encode(text)
    assert BYTE_PAIRS.decode(ids) == text and all(0 < i < 400 for i in ids)


def test_what_stands_often_together_becomes_one_token():
    assert len(BYTE_PAIRS) == 400 and BYTE_PAIRS.policy.bos_id == 0 and BYTE_PAIRS.policy.prepend_bos
    assert BYTE_PAIRS.single(" the") and BYTE_PAIRS.bos_token == "<bos>"
    text = DOCUMENTS[0]
    fewer = LearnedVocabulary(size=300).learned(DOCUMENTS)
    assert len(BYTE_PAIRS.encode(text)) < len(fewer.encode(text)) < len(text.encode())


def test_word_pieces_have_their_own_special_tokens():
    tokenizer = LearnedVocabulary(size=300, kind="WordPiece").learned(DOCUMENTS)
    assert len(tokenizer) == 300
    assert (tokenizer.bos_token, tokenizer.unk_token) == ("[CLS]", "[UNK]") and tokenizer.policy.bos_id == 0
    assert {0, 1} <= tokenizer.policy.special_ids
    row = tokenizer.tokens(["the lamp was old"]).tokens[0].tolist()
    assert row[0] == 0 and 1 not in row and tokenizer.decode(row[1:]) == "the lamp was old"
    assert 1 in tokenizer.encode("漢字"), "characters that the text had not are unknown"
    assert tokenizer.encode("##lamp") != tokenizer.encode("lamp"), "a text cannot name a piece"


@pytest.mark.parametrize("kind", KINDS)
def test_it_saves_and_loads_as_any_other(kind, tmp_path):
    tokenizer = LearnedVocabulary(size=320, kind=kind).learned(DOCUMENTS)
    tokenizer.save(tmp_path)
    again = read_tokenizer(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab() and again.policy == tokenizer.policy
    for text in DOCUMENTS[:5]:
        assert again.tokens([text]).tokens.tolist() == tokenizer.tokens([text]).tokens.tolist()


CODE = """
from pellucid.text.learn import LearnedVocabulary
from pellucid.text.made import MadeText
for kind in ("BPE", "WordPiece"):
    print(sorted(LearnedVocabulary(size=500, kind=kind).learned(MadeText(documents=60)).get_vocab().items()))
"""


def test_the_same_text_gives_the_same_vocabulary_in_every_process():
    said = [
        subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    ]
    assert said[0] == said[1] == said[2] and len(said[0]) > 1000


def test_sizes_that_leave_no_room_and_texts_that_teach_nothing_are_errors():
    with pytest.raises(ConfigError, match="size must be 258 or more for BPE, got 257"):
        LearnedVocabulary(size=257)
    with pytest.raises(ConfigError, match="size must be 3 or more for WordPiece, got 2"):
        LearnedVocabulary(size=2, kind="WordPiece")
    for kind in KINDS:
        with pytest.raises(ArgumentError, match="must be learned from text with pairs of characters"):
            LearnedVocabulary(size=300, kind=kind).learned([])
    with pytest.raises(ArgumentError, match="a larger size"):
        LearnedVocabulary(size=20, kind="WordPiece").learned(DOCUMENTS)
