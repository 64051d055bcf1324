import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.base.errors import ConfigError
from pellucid.base.seeds import generator
from pellucid.train.sequences import (
    IGNORED,
    MARK,
    MostFrequentToken,
    PeriodicSequences,
    Sequences,
    TokenSet,
    TranslatedSequences,
)

SEQUENCES = PeriodicSequences(d_vocab=50, length=40, shortest=4, longest=15)
KINDS = [
    SEQUENCES,
    TranslatedSequences(d_vocab=20, length=9, blanks=3),
    MostFrequentToken(d_vocab=20, length=9, distinct=4),
    TokenSet(d_vocab=20, length=9, distinct=4),
]


def period_of(row: list[int]) -> int:
    """The smallest one that explains the tokens after BOS."""
    drawn = row[1:]
    return next(p for p in range(1, len(row)) if all(a == b for a, b in zip(drawn, drawn[p:], strict=False)))


def test_every_sequence_is_bos_and_a_period_again_and_again():
    tokens = SEQUENCES.draw(64, generator(0)).tokens
    assert tokens.shape == (64, 40)
    assert (tokens[:, 0] == 0).all()
    assert tokens[:, 1:].min() >= 1 and tokens.max() < 50
    assert all(period_of(row) <= 15 for row in tokens.tolist())


def test_periods_vary_from_sequence_to_sequence_over_the_whole_range():
    rows = SEQUENCES.draw(500, generator(0)).tokens.tolist()
    assert set(range(4, 16)) <= {period_of(row) for row in rows}


@given(seed=st.integers(0, 2**32), shortest=st.integers(1, 6), more=st.integers(0, 4), offset=st.integers(0, 3))
def test_targets_are_the_next_tokens_after_the_first_period_and_one(seed, shortest, more, offset):
    sequences = PeriodicSequences(d_vocab=10**6, length=20, shortest=shortest, longest=shortest + more, offset=offset)
    tokens, targets, _ = sequences.draw(3, generator(seed))
    for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True):
        # With so many tokens, one that stands twice was repeated: the first such begins the second period.
        second = next(p for p in range(1, 20) if row[p] in row[1:p])
        assert wanted == [row[p + 1] if second <= p < 19 else IGNORED for p in range(20)]
        assert second - 1 - (second - row[1:].index(row[second]) - 1) <= offset


def test_with_an_offset_the_repetition_begins_anywhere_up_to_it():
    sequences = PeriodicSequences(d_vocab=10**6, length=20, shortest=5, longest=5, offset=4)
    rows = sequences.draw(200, generator(0)).tokens.tolist()
    begins = {next(p for p in range(1, 20) if row[p] in row[1:p]) - 5 for row in rows}
    assert begins == {1, 2, 3, 4, 5}


def test_noise_replaces_its_share_of_tokens_and_these_are_no_targets():
    clean = PeriodicSequences(d_vocab=10**6, length=200, shortest=20, longest=20)
    noisy = PeriodicSequences(d_vocab=10**6, length=200, shortest=20, longest=20, noise=0.2)
    (tokens, _, _), (spoilt, targets, _) = clean.draw(50, generator(0)), noisy.draw(50, generator(0))
    hit = tokens[:, 1:] != spoilt[:, 1:]
    assert hit.float().mean() == pytest.approx(0.2, abs=0.01)
    assert (targets[:, :-1][hit] == IGNORED).all()
    assert (targets[:, 21:-1][~hit[:, 21:]] == tokens[:, 22:][~hit[:, 21:]]).all()


def test_a_decoder_writes_what_the_encoder_read_blanks_left_out():
    tokens, targets, source = KINDS[1].draw(30, generator(0))
    assert source.shape == (30, 12)
    for read, written, wanted in zip(source.tolist(), tokens.tolist(), targets.tolist(), strict=True):
        assert [token for token in read if token != MARK] == wanted
        assert written == [0, *wanted[:-1]]
    assert len({tuple((row == MARK).tolist()) for row in source}) > 20


def test_without_blanks_the_source_is_the_answer():
    _, targets, source = TranslatedSequences(d_vocab=20, length=9).draw(4, generator(0))
    assert torch.equal(targets, source)


@given(seed=st.integers(0, 2**32), length=st.integers(2, 12), distinct=st.integers(2, 5))
def test_the_most_frequent_token_stands_more_often_than_any_other(seed, length, distinct):
    sequences = MostFrequentToken(d_vocab=9, length=length, distinct=min(distinct, length))
    tokens, targets, _ = sequences.draw(4, generator(seed))
    for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True):
        assert row[0] == 0 and row[-1] == MARK and len(row) == length + 2
        counts = {token: row[1:-1].count(token) for token in row[1:-1]}
        assert all(counts[wanted[-1]] > count for token, count in counts.items() if token != wanted[-1])
        assert wanted[:-1] == [IGNORED] * (length + 1) and min(counts) > MARK


@given(seed=st.integers(0, 2**32), length=st.integers(2, 12), distinct=st.integers(2, 5))
def test_a_set_is_each_token_once_in_the_order_of_its_first_place(seed, length, distinct):
    distinct = min(distinct, length)
    tokens, targets, _ = TokenSet(d_vocab=9, length=length, distinct=distinct).draw(4, generator(seed))
    for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True):
        asked = row[1 : 1 + length]
        answer = list(dict.fromkeys(asked))
        assert len(answer) == distinct
        assert row == [0, *asked, MARK, *answer[:-1]]
        assert wanted == [IGNORED] * (length + 1) + answer


@pytest.mark.parametrize("sequences", KINDS, ids=lambda kind: type(kind).__name__)
def test_the_same_seed_draws_the_same_sequences_and_no_row_is_longer_than_said(sequences):
    assert isinstance(sequences, Sequences)
    first, again, other = (sequences.draw(4, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.tokens, again.tokens) and torch.equal(first.targets, again.targets)
    assert not torch.equal(first.tokens, other.tokens)
    widest = max(part.shape[1] for part in first if part is not None)
    assert widest == sequences.longest_row
    assert max(int(part.max()) for part in first if part is not None) < sequences.d_vocab


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"shortest": 0, "longest": 5}, "got shortest=0, longest=5, length=40, offset=0"),
        ({"shortest": 5, "longest": 4}, "got shortest=5, longest=4, length=40, offset=0"),
        ({"longest": 38}, "got shortest=4, longest=38, length=40, offset=0"),
        ({"offset": 23}, "got shortest=4, longest=15, length=40, offset=23"),
        ({"offset": -1}, "got shortest=4, longest=15, length=40, offset=-1"),
        ({"noise": 1.0}, "noise must be a share, 0 ≤ noise < 1, got 1.0"),
        ({"d_vocab": 1}, "d_vocab must be 2 or more, BOS and a token, got 1"),
    ],
)
def test_periodic_sequences_that_cannot_be_are_refused(changes, found):
    with pytest.raises(ConfigError, match=found):
        PeriodicSequences(**{"d_vocab": 50, "length": 40, "shortest": 4, "longest": 15, **changes})


def test_other_sequences_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="BOS, a blank and two tokens, got 3"):
        TranslatedSequences(d_vocab=3, length=4)
    with pytest.raises(ConfigError, match="got length=4, blanks=-1"):
        TranslatedSequences(d_vocab=9, length=4, blanks=-1)
    for kind in (MostFrequentToken, TokenSet):
        with pytest.raises(ConfigError, match="got distinct=5, length=4, d_vocab=9"):
            kind(d_vocab=9, length=4, distinct=5)
