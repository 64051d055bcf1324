"""Means, intervals and p values against scipy, against literal enumeration, and by simulation."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from pellucid.base.errors import ArgumentError
from pellucid.maths import statistics
from pellucid.maths.statistics import _resamples, _signs, corrected, effect, max_statistic, smallest_p, split

EFFECTS = arrays(np.float64, st.integers(2, 9), elements=st.integers(-20, 20).map(lambda k: k / 4))


def sample(n, *cells, seed=0, skewed=False):
    random = np.random.default_rng(seed)
    return random.exponential(size=(n, *cells)) if skewed else random.normal(0.4, 1, size=(n, *cells))


def literal_p_value(x):
    sums = [abs(np.dot(signs, x)) for signs in product((1, -1), repeat=len(x))]
    return np.mean([s >= abs(x.sum()) - 1e-9 for s in sums])


def test_the_t_interval_is_that_of_scipy():
    x = sample(15, 3, 2)
    found = effect(x, interval=0.9)
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.9)
    np.testing.assert_allclose(found.mean, x.mean(axis=0))
    np.testing.assert_allclose(found.low, expected.low)
    np.testing.assert_allclose(found.high, expected.high)
    assert found.n == 15


@pytest.mark.parametrize("n", [2, 5, 8, 12])
def test_few_prompts_have_the_exact_p_value_of_scipys_permutation_test(n):
    x = sample(n, 4, seed=n)
    expected = stats.permutation_test((x,), np.mean, permutation_type="samples", n_resamples=np.inf)
    np.testing.assert_allclose(effect(x).p_value, expected.pvalue)


@given(EFFECTS)
def test_the_exact_p_value_counts_every_choice_of_signs_ties_included(x):
    assert effect(x).p_value == pytest.approx(literal_p_value(x))


def test_many_prompts_have_a_drawn_p_value_near_that_of_every_choice():
    x = sample(14, 3, seed=4)
    exact = [literal_p_value(cell) for cell in x.T]
    np.testing.assert_allclose(effect(x).p_value, exact, atol=0.02)


def test_a_drawn_p_value_counts_the_observed_signs_and_so_is_never_zero():
    assert effect(np.ones(60)).p_value == 1 / 10_000


def test_no_p_value_lies_below_two_to_the_one_minus_n():
    for n in (2, 3, 5, 6, 12):
        assert effect(np.linspace(1, 2, n)).p_value == 2.0 ** (1 - n)


def test_effects_that_are_all_zero_have_p_value_one():
    for n in (2, 12, 13, 40):
        assert effect(np.zeros(n)).p_value == 1


@given(EFFECTS, st.sampled_from(statistics.METHODS))
@settings(max_examples=40, deadline=None)
def test_the_negative_effect_has_the_same_p_value_and_the_mirrored_interval(x, method):
    if method == "bootstrap":
        x = np.concatenate([x, x.mean() - (x - x.mean())])  # BCa mirrors only up to chance where skewed
    one, other = effect(x, method=method), effect(-x, method=method)
    assert one.p_value == other.p_value
    slack = 0.2 * np.ptp(x) if method == "bootstrap" else 1e-9
    if np.isfinite(one.low):
        assert one.low == pytest.approx(-other.high, abs=slack + 1e-12)


@given(EFFECTS, st.floats(0.01, 100), st.sampled_from(statistics.METHODS))
@settings(max_examples=40, deadline=None)
def test_scaled_effects_have_the_same_p_value_and_the_scaled_interval(x, scale, method):
    one, scaled = effect(x, method=method), effect(scale * x, method=method)
    assert one.p_value == scaled.p_value
    np.testing.assert_allclose([scaled.low, scaled.high], [scale * one.low, scale * one.high], atol=1e-9)


@given(EFFECTS, st.sampled_from(statistics.METHODS))
@settings(max_examples=60, deadline=None)
def test_the_mean_lies_within_its_interval(x, method):
    found = effect(x, method=method)
    assert found.low - 1e-12 <= found.mean <= found.high + 1e-12


@pytest.mark.parametrize(("n", "interval"), [(6, 0.95), (9, 0.9), (12, 0.95), (20, 0.9)])
def test_the_sign_flip_interval_holds_exactly_the_means_that_the_test_keeps(n, interval):
    x = sample(n, skewed=True, seed=n)
    found = effect(x, method="sign-flip", interval=interval)
    width = found.high - found.low
    for bound, inwards in ((found.low, 1), (found.high, -1)):
        assert effect(x - (bound + inwards * 1e-6 * width)).p_value > 1 - interval
        assert effect(x - (bound - inwards * 1e-6 * width)).p_value <= 1 - interval + 1e-12


def test_the_sign_flip_interval_of_too_few_prompts_is_infinite():
    found = effect(sample(5), method="sign-flip")
    assert (found.low, found.high) == (-np.inf, np.inf)
    assert np.isfinite(effect(sample(5), method="sign-flip", interval=0.9).low)


def test_the_bca_interval_is_near_that_of_scipy():
    x = sample(30, 2, skewed=True, seed=3)
    found = effect(x, method="bootstrap")
    expected = stats.bootstrap((x,), np.mean, method="BCa", rng=np.random.default_rng(1)).confidence_interval
    width = expected.high - expected.low
    assert (np.abs(found.low - expected.low) < 0.05 * width).all()
    assert (np.abs(found.high - expected.high) < 0.05 * width).all()


def test_the_bca_interval_of_skewed_effects_reaches_further_towards_the_tail():
    found = effect(sample(20, skewed=True), method="bootstrap")
    assert found.high - found.mean > found.mean - found.low


@pytest.mark.parametrize("method", statistics.METHODS)
@pytest.mark.parametrize("n", [7, 30])
def test_equal_effects_have_an_interval_of_no_width(method, n):
    found = effect(np.full((n, 2), 0.1), method=method)
    np.testing.assert_allclose([found.low, found.high], 0.1)


@pytest.mark.parametrize("n", [2, 7, 30])
def test_the_bootstrap_of_one_effect_among_zeros_is_finite(n):
    x = np.zeros(n)
    x[0] = 1
    found = effect(x, method="bootstrap", interval=0.999)
    assert 0 <= found.low <= found.mean <= found.high <= 1


@pytest.mark.parametrize(
    ("method", "n", "least", "most"),
    [
        ("t", 8, 0.935, 0.965),
        ("sign-flip", 8, 0.935, 0.985),
        ("t", 24, 0.93, 0.97),
        ("bootstrap", 24, 0.89, 0.95),
    ],
)
def test_intervals_cover_the_true_mean_as_often_as_they_say(method, n, least, most):
    x = sample(n, 2000, seed=n) if method != "bootstrap" else sample(n, 600, skewed=True, seed=n)
    truth = 0.4 if method != "bootstrap" else 1.0
    found = effect(x, method=method)
    assert least <= ((found.low <= truth) & (truth <= found.high)).mean() <= most


def test_under_the_null_hypothesis_p_values_are_below_a_tenth_a_tenth_of_the_time():
    for n in (10, 20):
        p_value = effect(sample(n, 2000, seed=n) - 0.4).p_value
        assert 0.075 <= (p_value <= 0.1).mean() <= 0.125


@pytest.mark.parametrize("method", statistics.METHODS)
def test_one_prompt_has_a_mean_but_no_interval(method):
    found = effect(np.array([[1.0, 2.0]]), method=method)
    np.testing.assert_array_equal(found.mean, [1, 2])
    assert np.isnan([found.low, found.high, found.p_value]).all()
    assert found.n == 1


@pytest.mark.parametrize("method", statistics.METHODS)
def test_a_cell_that_is_not_finite_on_one_prompt_spoils_no_other(method):
    x = sample(14, 4)
    expected = effect(x[:, [0, 3]], method=method)
    x[2, 1], x[5, 2] = np.nan, np.inf
    found = effect(x, method=method)
    assert np.isnan([found.low[1:3], found.high[1:3], found.p_value[1:3]]).all()
    assert np.isnan(found.mean[1])
    assert found.mean[2] == np.inf
    for name in ("mean", "low", "high", "p_value"):
        np.testing.assert_allclose(getattr(found, name)[[0, 3]], getattr(expected, name))


@pytest.mark.parametrize("method", statistics.METHODS)
@pytest.mark.parametrize("n", [9, 30])
def test_blocks_change_nothing(method, n, monkeypatch):
    x = sample(n, 7)
    whole = effect(x, method=method, seed=5)
    monkeypatch.setattr(statistics, "BLOCK", 3 * statistics.DRAWS)  # three cells a block
    parts = effect(x, method=method, seed=5)
    for name in ("mean", "low", "high", "p_value"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)


def test_draws_do_not_depend_on_the_size_of_their_blocks(monkeypatch):
    signs, counts = (np.concatenate(list(draws)) for draws in (_signs(30, 0)[1], _resamples(30, 0)))
    monkeypatch.setattr(statistics, "BLOCK", 4 * 30 * 1000)  # a thousand draws a block
    blocks = list(_signs(30, 0)[1])
    assert [len(block) for block in blocks] == 9 * [1000] + [999]
    np.testing.assert_array_equal(np.concatenate(blocks), signs)
    np.testing.assert_array_equal(np.concatenate(list(_resamples(30, 0))), counts)


def test_every_resample_draws_as_many_prompts_as_there_are():
    assert all((counts.sum(axis=1) == 30).all() for counts in _resamples(30, 0))


def test_the_seed_decides_what_is_drawn():
    x = sample(25, seed=8)
    for method in ("sign-flip", "bootstrap"):
        low = [effect(x, method=method, seed=seed).low for seed in (0, 0, 1)]
        assert low[0] == low[1] != low[2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_tensor_of_any_real_type_is_taken_and_counted_in_float64(dtype):
    x = torch.tensor([[1.0, 2.0], [2.0, 4.0], [3.0, 6.5]], dtype=dtype, requires_grad=True)
    found, expected = effect(x), effect(x.detach().double().numpy())
    np.testing.assert_array_equal(found.low, expected.low)
    assert found.mean.dtype == found.low.dtype == found.p_value.dtype == np.float64


def test_whole_numbers_and_truth_values_are_taken():
    assert effect(np.array([1, 2, 3])).mean == 2
    assert effect(torch.tensor([True, False])).mean == 0.5


def test_results_are_arrays_of_the_cells_shape():
    for cells in [(), (3,), (2, 3), (0,), (2, 0)]:
        found = effect(np.ones((4, *cells)))
        for part in (found.mean, found.low, found.high, found.p_value):
            assert isinstance(part, np.ndarray)
            assert part.shape == cells


@pytest.mark.parametrize("x", [np.array(1.0), np.ones((0, 3)), torch.tensor(1.0)])
def test_no_prompt_is_refused_with_the_shape(x):
    with pytest.raises(ArgumentError, match=r"one prompt or more .*, got shape \[.*give the effects"):
        effect(x)


@pytest.mark.parametrize("x", [np.ones(3, complex), torch.ones(3).to(torch.complex64), np.array(["a", "b"])])
def test_what_is_not_a_real_number_is_refused(x):
    with pytest.raises(ArgumentError, match="real numbers, got (complex|<U)"):
        effect(x)


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(ArgumentError, match="got 'signflip'; nearest: sign-flip"):
        effect(np.ones(3), method="signflip")


@pytest.mark.parametrize("interval", [0.0, 1.0, 95.0, float("nan")])
def test_an_interval_outside_zero_to_one_is_refused(interval):
    with pytest.raises(ArgumentError, match="interval must lie between 0 and 1, got"):
        effect(np.ones(3), interval=interval)


@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)), st.integers(0, 5))
def test_corrected_p_values_are_those_of_benjamini_and_hochberg_with_nan_passed_over(p, gaps):
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    expected = np.empty_like(p)
    expected[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    found = corrected(np.concatenate([np.full(gaps, np.nan), p]))
    assert np.isnan(found[:gaps]).all()
    np.testing.assert_allclose(found[gaps:], expected)


def test_corrected_keeps_the_shape_and_leaves_its_input_alone():
    p = np.array([[0.01, np.nan], [0.2, 0.03]])
    before = p.copy()
    assert corrected(p).shape == (2, 2)
    np.testing.assert_array_equal(p, before)
    assert np.isnan(corrected(np.full((2, 2), np.nan))).all()
    assert corrected(torch.tensor(0.04)).shape == ()
    assert corrected(np.ones((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("p", [[-0.1, 0.5], [0.2, 1.5]])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(ArgumentError, match="from 0 to 1, got .*; give p values, not effects"):
        corrected(np.array(p))


def test_an_unknown_correction_is_refused():
    with pytest.raises(ArgumentError, match="method must be fdr, got 'bonferroni'"):
        corrected(np.array([0.1]), method="bonferroni")


class TestMaxStatistic:
    @given(arrays(np.float64, st.tuples(st.integers(2, 7), st.integers(1, 4)), elements=st.integers(-9, 9).map(float)))
    def test_it_is_that_of_literal_enumeration(self, x):
        size = np.sqrt((x**2).sum(axis=0))
        farthest = [
            max(abs(np.dot(signs, x[:, c])) / size[c] if size[c] else 0 for c in range(x.shape[1]))
            for signs in product((1, -1), repeat=len(x))
        ]
        observed = np.where(size > 0, abs(x.sum(axis=0)) / np.where(size > 0, size, 1), 0)
        expected = [np.mean([f >= o - 1e-9 for f in farthest]) for o in observed]
        np.testing.assert_allclose(max_statistic(x), expected)

    def test_one_cell_has_the_p_value_of_its_own_test(self):
        x = sample(9)
        np.testing.assert_allclose(max_statistic(x[:, None]), [effect(x).p_value])

    @pytest.mark.parametrize("n", [8, 30])
    def test_equal_cells_cost_nothing(self, n):
        x = sample(n)
        np.testing.assert_allclose(max_statistic(np.tile(x[:, None], 50)), np.full(50, effect(x).p_value))

    @pytest.mark.parametrize("n", [8, 30])
    def test_it_does_not_depend_on_the_blocks(self, monkeypatch, n):
        x = sample(n, 3, 5)
        whole = max_statistic(x)
        monkeypatch.setattr(statistics, "BLOCK", 40_000)
        assert whole.shape == (3, 5)
        np.testing.assert_array_equal(max_statistic(x), whole)

    def test_under_the_null_any_cell_is_found_in_one_family_of_twenty(self):
        random = np.random.default_rng(0)
        shared = random.normal(size=(400, 10, 1))
        families = shared + random.normal(size=(400, 10, 20)) * random.uniform(0.1, 5, size=20)
        found = np.mean([max_statistic(x).min() < 0.05 for x in families])
        assert 0.02 < found < 0.08  # 0.05, and four standard errors of 400 families less or more

    def test_it_reaches_the_smallest_p_whatever_the_number_of_cells(self):
        x = sample(7, 500)
        x[:, 3] = 100
        assert max_statistic(x)[3] == smallest_p(7) == 1 / 64
        assert corrected(effect(x).p_value)[3] > 0.05

    def test_cells_that_are_not_numbers_are_passed_over(self):
        x = sample(8, 3)
        x[2, 1] = np.nan
        found = max_statistic(x)
        assert np.isnan(found[1])
        np.testing.assert_array_equal(found[[0, 2]], max_statistic(x[:, [0, 2]]))
        assert np.isnan(max_statistic(np.full((4, 2), np.inf))).all()

    def test_one_prompt_has_none(self):
        assert np.isnan(max_statistic(np.ones((1, 2)))).all()

    def test_a_tensor_is_taken(self):
        x = sample(8, 2)
        np.testing.assert_array_equal(max_statistic(torch.tensor(x)), max_statistic(x))

    def test_no_prompt_is_refused(self):
        with pytest.raises(ArgumentError, match=r"one prompt or more on its first axis, got shape \[0, 2\]"):
            max_statistic(np.ones((0, 2)))


@pytest.mark.parametrize("n", [2, 6, 12, 200])
def test_the_smallest_p_is_that_of_equal_effects(n):
    assert effect(np.ones(n)).p_value == smallest_p(n)


def test_where_signs_are_drawn_the_smallest_p_is_about_that():
    assert smallest_p(13) / 2 < effect(np.ones(13)).p_value < smallest_p(13) * 2


@pytest.mark.parametrize(("n", "chosen", "reported"), [(1, [0], [0]), (2, [0], [1]), (5, [0, 1], [2, 3, 4])])
def test_prompts_are_split_in_two_halves(n, chosen, reported):
    assert [list(half) for half in split(n)] == [chosen, reported]
