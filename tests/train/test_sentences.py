"""Sentences that are made: what is kept out of them is out, and they are made of the model's words."""

import random
import re

import pytest
import torch

from pellucid.base.errors import ConfigError
from pellucid.tasks.ioi import FRAMES, IOI
from pellucid.train import NameSentences, read_recipe
from pellucid.train.sentences import (
    NAMES,
    NEW_FRAMES,
    NEW_NAMES,
    indirect_object,
    kept_out,
    sentence_vocabulary,
)
from pellucid.train.sequences import IGNORED


def sentences(n=3000, **how):
    draws = random.Random(0)
    return [indirect_object(draws, **how) for _ in range(n)]


def names_in(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text) if word in NAMES]


def test_a_sentence_ends_with_the_name_that_was_not_repeated():
    for text in sentences(500):
        names = names_in(text)
        assert len(names) == 4 and len(set(names)) == 2
        assert names[2] != names[3] and set(names[:2]) == set(names[2:]) and text.endswith(f" {names[3]}.")
    firsts = [names_in(text)[0] == names_in(text)[3] for text in sentences(2000)]
    assert 0.45 < sum(firsts) / 2000 < 0.55  # both orders as often


def test_what_is_kept_out_is_out():
    pairs = {tuple(sorted(set(names_in(text)))) for text in sentences()}
    assert not any(kept_out(*pair) for pair in pairs) and len(pairs) > 700
    assert not {name for pair in pairs for name in pair} & set(NEW_NAMES) and len(NEW_NAMES) == 12
    shapes = [
        re.sub(r"{\w+}", r"\\w+", re.escape(frame.text).replace(r"\{", "{").replace(r"\}", "}")) for frame in NEW_FRAMES
    ]
    assert all(
        re.match(shape, frame.text.format_map(_Words())) for shape, frame in zip(shapes, NEW_FRAMES, strict=True)
    )
    for text in sentences():
        assert not any(re.match(shape, text) for shape in shapes), text


class _Words(dict):
    def __missing__(self, key):
        return "word"


def test_each_word_of_a_template_that_is_kept_out_stands_in_some_row():
    vocabulary = sentence_vocabulary()
    rows = NameSentences(length=64).draw(600, torch.Generator().manual_seed(0)).tokens
    seen = set(rows.unique().tolist())
    for pairs in (IOI(frames=(frame,)).pairs(vocabulary, n=2) for frame in NEW_FRAMES):
        assert set(pairs.clean[0].tolist()) <= seen
    assert {vocabulary.single(name) for name in NEW_NAMES} <= seen


def test_rows_are_the_tokens_of_the_vocabulary():
    vocabulary, data = sentence_vocabulary(), NameSentences(length=40)
    batch = data.draw(50, torch.Generator().manual_seed(3))
    assert batch.tokens.shape == (50, 40) and bool((batch.tokens[:, 0] == vocabulary.bos_token_id).all())
    assert torch.equal(batch.targets[:, :-1], batch.tokens[:, 1:]) and bool((batch.targets[:, -1] == IGNORED).all())
    assert torch.equal(batch.tokens, data.draw(50, torch.Generator().manual_seed(3)).tokens)
    assert int(batch.tokens.max()) < data.d_vocab == len(vocabulary)
    for text in sentences(50):
        assert vocabulary.tokens([text]).tokens[0, 1:].tolist() == vocabulary.encode(text)
    assert all(set(vocabulary.encode(frame.text.format_map(_Known()))) for frame in FRAMES)


class _Known(dict):
    def __missing__(self, key):
        return {"PLACE": "store", "OBJECT": "ring"}.get(key, "Mary")


def test_a_recipe_has_the_vocabulary_of_its_sentences():
    recipe = read_recipe("toy-ioi")
    assert recipe.model.config.d_vocab == len(sentence_vocabulary())
    assert recipe.model.made(seed=0).tokenizer.get_vocab() == sentence_vocabulary().get_vocab()
    with pytest.raises(ConfigError, match="length must be 24 or more.*got length=8"):
        NameSentences(length=8)
