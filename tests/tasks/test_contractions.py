"""The task of contractions: who has read a contraction answers with the pronoun's own, and every token is looked at."""

import pytest

from pellucid.base.errors import TokenError
from pellucid.tasks.contractions import CONTRACTION, GROUPS, VERB, Contractions
from pellucid.tasks.templates import Frame
from pellucid.text.read import read_tokenizer


@pytest.fixture(scope="module")
def tokenizer(shared):
    return read_tokenizer(shared / "data" / "gpt2-tokenizer")


class Splitting:
    """The tokenizer, but for one text that it has in two pieces."""

    def __init__(self, tokenizer, text):
        self.tokenizer, self.text = tokenizer, text

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def encode(self, text, **options):
        if text.endswith(self.text):
            start = self.tokenizer.encode(text[: -len(self.text)], **options)
            return start + self.tokenizer.encode(self.text[:-1]) + self.tokenizer.encode(self.text[-1])
        return self.tokenizer.encode(text, **options)


def test_the_answer_is_the_contraction_of_the_last_pronoun(tokenizer):
    pairs = Contractions().pairs(tokenizer)
    assert len(pairs) == 100 and set(pairs.group) == set(GROUPS)
    rows = zip(pairs.group, pairs.answer[:, 0].tolist(), pairs.wrong[:, 0].tolist(), strict=True)
    for group, answer, wrong in rows:
        own = CONTRACTION[group.split()[1]]
        assert tokenizer.strings([answer, wrong]) == [own, f" {VERB[own]}"]


def test_the_contraction_seen_is_written_out_on_the_other_side(tokenizer):
    pairs = Contractions().pairs(tokenizer, n=20)
    for row, group in enumerate(pairs.group):
        at, end = int(pairs.positions["contraction"][row]), int(pairs.positions["end"][row])
        seen, last = group.split()
        ids = [pairs.clean[row, at], pairs.corrupted[row, at], pairs.clean[row, end]]
        assert tokenizer.strings([int(x) for x in ids]) == [seen, f" {VERB[seen]}", f" {last}"]
        assert (pairs.clean[row] != pairs.corrupted[row]).nonzero().ravel().tolist() == [at]
        subject = tokenizer.strings([int(pairs.clean[row, pairs.positions["subject"][row]])])[0]
        assert subject.lower() != last


def test_a_noun_stands_for_the_pronoun_and_nothing_else_changes(tokenizer):
    pairs, nouns = (Contractions(pronoun=last).pairs(tokenizer, n=20) for last in (True, False))
    for row in range(20):
        end = int(pairs.positions["end"][row])
        assert tokenizer.strings([int(nouns.clean[row, end])]) == [" people"]
        assert (pairs.clean[row] != nouns.clean[row]).nonzero().ravel().tolist() == [end]
    assert (pairs.answer == nouns.answer).all() and (pairs.wrong == nouns.wrong).all()


@pytest.mark.parametrize("text", ["It's", "You're", "I'm", "She is", " she's", " they are"])
def test_every_word_that_is_used_must_have_its_contraction_in_one_token(tokenizer, text):
    with pytest.raises(TokenError, match=r"contractions needs .* to be one token behind '.*', got \[.*\]; take a"):
        Contractions().pairs(Splitting(tokenizer, text), n=10)


def test_curled_apostrophes_are_refused_with_their_pieces(tokenizer):
    task = Contractions(
        frames=(Frame("curled", "{S} glad since they’re here, and {P}"), Frame("b", "{S} glad, and {P}"))
    )
    with pytest.raises(TokenError, match="straight apostrophes, got ’ in 'curled': .*; write ' in its place"):
        task.pairs(tokenizer, n=10)
