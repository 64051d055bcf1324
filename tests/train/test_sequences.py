import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.base.errors import ConfigError
from pellucid.base.seeds import generator
from pellucid.train.sequences import IGNORED, PeriodicSequences

SEQUENCES = PeriodicSequences(d_vocab=50, length=40, shortest=4, longest=15)


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


@given(seed=st.integers(0, 2**32), shortest=st.integers(1, 6), more=st.integers(0, 4))
def test_targets_are_the_next_tokens_after_the_first_period_and_one(seed, shortest, more):
    sequences = PeriodicSequences(d_vocab=10**6, length=16, shortest=shortest, longest=shortest + more)
    tokens, targets = sequences.draw(3, generator(seed))
    for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True):
        period = period_of(row)
        # The token at `period + 1` begins the second period: nothing tells that the first one is over.
        assert wanted == [row[p + 1] if period < p < 15 else IGNORED for p in range(16)]


def test_the_same_seed_draws_the_same_sequences():
    first, again, other = (SEQUENCES.draw(4, generator(seed)).tokens for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("shortest", "longest"), [(0, 5), (5, 4), (4, 38)])
def test_periods_that_cannot_be_are_refused(shortest, longest):
    with pytest.raises(ConfigError, match=f"got shortest={shortest}, longest={longest}, length=40"):
        PeriodicSequences(d_vocab=50, length=40, shortest=shortest, longest=longest)


def test_a_vocabulary_of_bos_alone_is_refused():
    with pytest.raises(ConfigError, match="BOS and a token, got 1"):
        PeriodicSequences(d_vocab=1, length=40, shortest=4, longest=15)
