"""Text to train on: what is read, what is held out, and a vocabulary that is learned on the way."""

import pytest

from pellucid import HookedTransformer
from pellucid.base.errors import ArgumentError, ConfigError
from pellucid.text.corpus import Corpus
from pellucid.text.learn import LearnedVocabulary
from pellucid.text.made import MadeText
from pellucid.text.packing import held_out
from pellucid.train import Text, recipe_of, train
from tests.train.recipes import TINY

MADE = {"kind": "Text", "source": "made:80", "length": 32, "held_out": 0.3}
MODEL = {"n_layers": 1, "d_model": 8, "n_ctx": 32, "attention": {"n_heads": 1, "d_head": 8}}
LEARNED = {**TINY, "steps": 4, "data": MADE, "model": {**MODEL, "tokenizer": {"size": 300}}}


def test_a_share_of_the_text_leaves_what_is_held_out_as_it_is():
    whole = Text(source="made:400", length=32, held_out=0.2)
    part = Text(source="made:400", length=32, held_out=0.2, share=0.25)
    tokenizer = LearnedVocabulary(size=300).learned(MadeText(documents=20))
    ours, theirs = whole.packed(tokenizer), part.packed(tokenizer)
    assert (ours.held_out == theirs.held_out).all() and ours.n_held_out_documents == theirs.n_held_out_documents
    assert theirs.n_documents / ours.n_documents == pytest.approx(0.25, abs=0.06)
    assert set(part.training()) < set(whole.training())
    assert not any(held_out(text, 0.2) for text in part.training())


def test_long_texts_are_cut_at_line_ends_into_what_together_they_were(tmp_path):
    text = "".join(f"line {i} of some length\n" for i in range(100)) + "and an end without one"
    (tmp_path / "book.txt").write_text(text)
    found = list(Corpus(source=str(tmp_path), longest=200))
    assert "".join(found) == text and len(found) > 8
    assert all(200 < len(one) <= 200 + 24 and one.endswith("\n") for one in found[:-1])
    assert list(Corpus(source=str(tmp_path))) == [text]
    with pytest.raises(ArgumentError, match="longest must be 1 or more, got 0"):
        Corpus(source="a", longest=0)


def test_text_may_be_made_here():
    assert list(Corpus(source="made:7")) == list(MadeText(documents=7))
    for name in ("made:", "made:x", "made:0", "made:-3"):
        with pytest.raises(ArgumentError, match="text that is made here must be made:N"):
            list(Corpus(source=name))


def test_rows_may_go_without_bos_and_then_the_model_is_told():
    for bos in (True, False):
        recipe = recipe_of({**LEARNED, "data": {**MADE, "bos": bos}})
        run = train(recipe, device="cpu")
        packed = recipe.data.packed(run.model.tokenizer)
        assert packed.bos == bos and run.model.tokenizer.policy.prepend_bos == bos
        assert (packed.train[:, 0] == 0).all() == bos
        assert (run.model.to_tokens("a lamp")[0, 0] == 0) == bos


def test_a_vocabulary_is_learned_from_the_training_text_alone_and_kept_with_the_model(tmp_path):
    recipe = recipe_of(LEARNED)
    assert recipe.model.config.d_vocab == 300 and recipe_of(recipe.to_dict()) == recipe
    run = train(recipe, out=tmp_path / "run", device="cpu")
    expected = LearnedVocabulary(size=300).learned(text for text in MadeText(documents=80) if not held_out(text, 0.3))
    other = LearnedVocabulary(size=300).learned(MadeText(documents=80))
    assert run.model.tokenizer.get_vocab() == expected.get_vocab() != other.get_vocab()
    loaded = HookedTransformer.from_pretrained(tmp_path / "run")
    assert loaded.to_tokens("The lamp.").tolist() == run.model.to_tokens("The lamp.").tolist()
    again = train(recipe, out=tmp_path / "run", resume=True, device="cpu")
    assert again.model.tokenizer.get_vocab() == expected.get_vocab()


def test_what_contradicts_is_one_error():
    with pytest.raises(ConfigError, match="a tokenizer can be learned from text alone, and data is none"):
        train(recipe_of({**TINY, "model": {**TINY["model"], "tokenizer": {"size": 300}, "d_vocab": 300}}), device="cpu")
    with pytest.raises(ConfigError, match=r"must fit a row twice, 1 \+ 2 copies.longest ≤ length=32, got longest=16"):
        recipe_of({**LEARNED, "data": {**MADE, "copies": {"share": 0.5, "shortest": 2, "longest": 16}}})
    with pytest.raises(ConfigError, match="share must be above 0 and at most 1, got 0"):
        recipe_of({**LEARNED, "data": {**MADE, "share": 0}})
    with pytest.raises(ConfigError, match="model.tokenizer.kind must be one of BPE, WordPiece, got 'Unigram'"):
        recipe_of({**LEARNED, "model": {**MODEL, "tokenizer": {"size": 300, "kind": "Unigram"}}})
