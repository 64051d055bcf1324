"""Passages that stand twice."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.base.errors import ConfigError
from pellucid.train.copies import Copies
from pellucid.train.stream import Shuffled

ROWS = np.arange(600).reshape(20, 30)
"""Every number once, so that what stands twice was copied."""


@given(st.integers(0, 2**32 - 1), st.integers(1, 14), st.integers(0, 13))
def test_one_passage_of_each_chosen_row_stands_twice(seed, shortest, more):
    copies = Copies(share=1.0, shortest=shortest, longest=min(14, shortest + more))
    found = copies.copied(ROWS, share=1.0, draws=np.random.default_rng(seed))
    assert (found[:, 0] == ROWS[:, 0]).all() and ROWS[0, 1] == 1
    for row, before in zip(found, ROWS, strict=True):
        changed = np.flatnonzero(row != before)
        n = len(changed)
        assert copies.shortest <= n <= copies.longest and (np.diff(changed) == 1).all()
        source = np.flatnonzero(before == row[changed[0]])[0]
        assert 1 <= source <= changed[0] - n, "the copy stands behind the passage, and beside BOS nothing is copied"
        assert (row[changed] == before[source : source + n]).all()


def test_lengths_places_and_distances_are_all_drawn():
    copies = Copies(share=1.0, shortest=3, longest=6)
    draws, lengths, begins, gaps = np.random.default_rng(0), set(), set(), set()
    for _ in range(200):
        for row, before in zip(copies.copied(ROWS, share=1.0, draws=draws), ROWS, strict=True):
            changed = np.flatnonzero(row != before)
            lengths.add(len(changed))
            begins.add(int(changed[0]))
            gaps.add(int(changed[0] - np.flatnonzero(before == row[changed[0]])[0]))
    assert lengths == {3, 4, 5, 6} and min(begins) == 4 and max(begins) == 27 and gaps == set(range(3, 27))


def test_the_share_is_that_of_the_rows_and_goes_in_a_straight_line():
    draws = np.random.default_rng(0)
    changed = [
        (
            Copies(share=0.3).copied(np.arange(50_000).reshape(200, 250), share=0.3, draws=draws)
            != np.arange(50_000).reshape(200, 250)
        )
        .any(1)
        .mean()
        for _ in range(20)
    ]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.03)
    assert [Copies(share=0.5, last_share=0.1).at(done) for done in (0, 0.25, 1, 2)] == pytest.approx(
        [0.5, 0.4, 0.1, 0.1]
    )
    assert Copies(share=0.5).at(0.7) == 0.5


def test_a_stream_with_copies_goes_on_from_its_place_and_leaves_the_text_alone():
    rows = np.arange(600, dtype=np.uint16).reshape(20, 30)
    copies = Copies(share=0.8, last_share=0.0, shortest=2, longest=9)

    def stream():
        return Shuffled(rows, batch=6, seed=3, copies=copies, steps=10)

    one = stream()
    batches = [next(one).tokens for _ in range(10)]
    again = stream()
    for _ in range(4):
        next(again)
    other = stream()
    other.place = again.place
    assert all(torch.equal(next(other).tokens, batch) for batch in batches[4:])
    assert np.array_equal(rows, np.arange(600).reshape(20, 30))
    plain = Shuffled(rows, batch=6, seed=3)
    differs = [(next(plain).tokens != batch).any(1).double().mean() for batch in batches]
    assert np.mean(differs[:3]) > 0.5 and np.mean(differs[7:]) < 0.4, "the order is the same, the copies get fewer"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 1.5}, "share must be a share, from 0 to 1, got 1.5"),
        ({"share": 0.5, "last_share": -1.0}, "last_share must be a share, from 0 to 1, got -1"),
        ({"share": 0.5, "shortest": 9, "longest": 8}, "1 ≤ shortest ≤ longest must hold, got shortest=9, longest=8"),
        ({"share": 0.5, "shortest": 0}, "1 ≤ shortest ≤ longest must hold"),
    ],
)
def test_what_cannot_be_is_told(values, message):
    with pytest.raises(ConfigError, match=message):
        Copies(**values)
