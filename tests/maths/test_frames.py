"""Prompts of one frame count once, whatever their number."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.base.errors import ArgumentError
from pellucid.maths import statistics
from pellucid.maths.frames import Frames
from pellucid.maths.statistics import METHODS, effect, max_statistic

PARTS = ("mean", "low", "high", "p_value")


def sample(n, *cells, seed=0):
    return np.random.default_rng(seed).normal(0.4, 1, size=(n, *cells))


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=12))
def test_means_of_frames_are_those_of_a_loop(ids):
    x = sample(len(ids), 3)
    expected = [np.mean([x[i] for i in range(len(ids)) if ids[i] == one], axis=0) for one in dict.fromkeys(ids)]
    found = Frames.of(ids, len(ids))
    assert found.ids == tuple(dict.fromkeys(ids))
    np.testing.assert_allclose(found.means(x), expected)


@pytest.mark.parametrize("method", METHODS)
def test_an_effect_over_frames_is_that_of_their_means_each_with_the_same_weight(method):
    x, ids = sample(60, 2, 2), np.repeat(np.arange(24), [1, 2, 3, 4] * 6)
    means = np.stack([x[ids == one].mean(axis=0) for one in range(24)])
    found, expected = effect(x, frames=ids, method=method, seed=3), effect(means, method=method, seed=3)
    assert found.n == 24
    for name in PARTS:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("n", [7, 30])
def test_the_max_statistic_over_frames_is_that_of_their_means(n):
    x = sample(2 * n, 3)
    expected = max_statistic(x.reshape(n, 2, 3).mean(axis=1))
    np.testing.assert_allclose(max_statistic(x, frames=np.repeat(np.arange(n), 2)), expected)


def test_frames_of_one_prompt_each_change_nothing():
    x = sample(14, 4)
    for name in PARTS:
        np.testing.assert_array_equal(getattr(effect(x, frames=range(14)), name), getattr(effect(x), name))


def test_the_order_of_prompts_and_the_names_of_frames_do_not_matter():
    x, ids = sample(12, 2), np.arange(12) % 5
    order = np.random.default_rng(1).permutation(12)
    one, other = effect(x, frames=ids), effect(x[order], frames=[f"frame {i}" for i in ids[order]])
    np.testing.assert_allclose(one.low, other.low)
    np.testing.assert_allclose(one.p_value, other.p_value)


def test_repeating_a_prompt_makes_no_frame_surer():
    x = sample(8)
    one, many = effect(x), effect(np.repeat(x, 10), frames=np.repeat(np.arange(8), 10))
    assert one.low == pytest.approx(many.low)
    assert effect(np.repeat(x, 10)).low > many.low


@pytest.mark.parametrize("method", METHODS)
def test_one_frame_has_a_mean_but_no_interval(method):
    found = effect(np.array([[1.0, 2.0], [3.0, 4.0]]), frames=["a", "a"], method=method)
    np.testing.assert_array_equal(found.mean, [2, 3])
    assert np.isnan([found.low, found.high, found.p_value]).all()
    assert found.n == 1
    assert np.isnan(max_statistic(np.ones((3, 2)), frames=[5, 5, 5])).all()


def test_a_cell_that_is_not_finite_on_one_prompt_spoils_no_other():
    x, ids = sample(12, 4), np.arange(12) // 2
    expected = effect(x[:, [0, 3]], frames=ids)
    x[2, 1], x[5, 2] = np.nan, np.inf
    found = effect(x, frames=ids)
    assert np.isnan([found.low[1:3], found.high[1:3], found.p_value[1:3]]).all()
    assert np.isnan(found.mean[1])
    assert found.mean[2] == np.inf
    for name in PARTS:
        np.testing.assert_array_equal(getattr(found, name)[[0, 3]], getattr(expected, name))


def test_blocks_change_nothing(monkeypatch):
    x, ids = sample(30, 7), np.arange(30) // 2
    whole = effect(x, frames=ids)
    monkeypatch.setattr(statistics, "BLOCK", 3 * statistics.DRAWS)  # three cells a block
    np.testing.assert_allclose(effect(x, frames=ids).low, whole.low, rtol=1e-12)


def test_a_tensor_is_taken():
    x = torch.tensor(sample(6, 2), dtype=torch.float32)
    assert effect(x, frames=["a", "a", "b", "b", "c", "c"]).n == 3


@pytest.mark.parametrize(
    ("frames", "found"), [([1, 2], "2 ids"), ([], "0 ids"), (np.array([1, 2]), "2 ids"), (np.array(3), "one id")]
)
@pytest.mark.parametrize("function", [effect, max_statistic])
def test_frames_that_are_not_one_a_prompt_are_refused(function, frames, found):
    with pytest.raises(ArgumentError, match=f"one id for each prompt, got {found} for 3 prompts"):
        function(np.ones((3, 2)), frames=frames)


def test_frames_that_are_no_names_are_refused():
    with pytest.raises(ArgumentError, match=r"names or numbers, one for each prompt, got lists; give \[prompt\] ids"):
        effect(np.ones(2), frames=np.ones((2, 1)))
