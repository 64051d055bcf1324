"""Two groups compared: against literal loops and scipy, and by simulation."""

import warnings
from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
from scipy import stats

from pellucid.base.errors import ArgumentError, MisreadWarning
from pellucid.maths import statistics
from pellucid.maths.groups import compare_groups
from pellucid.maths.statistics import effect

PARTS = ("difference", "low", "high", "p_value", "n_to_decide")


def sample(n, *cells, seed=0, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, size=(n, *cells))


def same_frames(n):
    return list(range(n)), list(range(n))


def literal_p_value(a, b):
    """Every way to deal the numbers to two groups of these sizes, Welch's t of each."""
    pooled = np.concatenate([a, b])

    def t(chosen):
        rest = [i for i in range(len(pooled)) if i not in chosen]
        return abs(stats.ttest_ind(pooled[list(chosen)], pooled[rest], equal_var=False).statistic)

    observed = t(range(len(a)))
    return np.mean([t(c) >= observed * (1 - 1e-9) for c in combinations(range(len(pooled)), len(a))])


class TestDifference:
    def test_unpaired_the_interval_is_that_of_welch(self):
        a, b = sample(9), 3 * sample(5, seed=1)
        found, expected = compare_groups(a, b, delta=0.1), stats.ttest_ind(a, b, equal_var=False)
        assert found.difference == pytest.approx(a.mean() - b.mean())
        np.testing.assert_allclose([found.low, found.high], expected.confidence_interval())
        assert (found.n, found.paired) == ((9, 5), False)

    @pytest.mark.parametrize(("m", "n"), [(2, 2), (3, 4), (5, 4)])
    def test_unpaired_few_frames_have_the_p_value_of_every_permutation(self, m, n):
        a, b = sample(m, 3), sample(n, 3, seed=1, mean=1)
        expected = [literal_p_value(one, other) for one, other in zip(a.T, b.T, strict=True)]
        np.testing.assert_allclose(compare_groups(a, b, delta=1).p_value, expected)

    def test_many_frames_have_a_drawn_p_value_near_that_of_welch(self):
        a, b = sample(40, 5), 2 * sample(30, 5, seed=1)
        expected = stats.ttest_ind(a, b, equal_var=False).pvalue
        np.testing.assert_allclose(compare_groups(a, b, delta=1).p_value, expected, atol=0.03)
        assert compare_groups(a[:, 0] + 100, b[:, 0], delta=1).p_value == 1 / 10_000

    def test_paired_it_is_the_effect_of_the_differences(self):
        a, b = sample(10), sample(10, seed=1)
        found, expected = compare_groups(a, b, delta=1, frames=same_frames(10)), effect(a - b)
        np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high])
        assert found.p_value == expected.p_value
        assert (found.n, found.paired) == ((10, 10), True)

    def test_frames_are_paired_by_id_after_averaging(self):
        a, b = sample(6, 2), sample(5, 2, seed=1)
        frames = (["x", "x", "y", "z", "w", "w"], ["w", "z", "z", "y", "x"])
        differences = np.stack([a[:2].mean(0) - b[4], a[2] - b[3], a[3] - b[1:3].mean(0), a[4:].mean(0) - b[0]])
        found, expected = compare_groups(a, b, delta=1, frames=frames), effect(differences)
        np.testing.assert_allclose(found.difference, expected.mean)
        np.testing.assert_allclose(found.p_value, expected.p_value)
        assert (found.n, found.paired) == ((4, 4), True)

    def test_other_frames_are_not_paired(self):
        a, b, ids = sample(6), sample(6, seed=1), np.arange(6)
        found = compare_groups(a, b, delta=1, frames=(ids // 2, ids // 2 + 10))
        expected = compare_groups(a.reshape(3, 2).mean(1), b.reshape(3, 2).mean(1), delta=1)
        assert (found.n, found.paired) == ((3, 3), False)
        np.testing.assert_allclose(found.low, expected.low)

    def test_frames_of_which_some_are_the_same_are_warned_of(self):
        match = (
            "paired only on the same frames, and 3 of 4 in a and 3 in b are the same; .*; leave the other frames out"
        )
        with pytest.warns(MisreadWarning, match=match):
            assert not compare_groups(sample(4), sample(3), delta=1, frames=([1, 2, 3, 4], [1, 2, 3])).paired

    def test_the_negative_difference_has_the_mirrored_interval(self):
        a, b = sample(7, 4), sample(5, 4, seed=1)
        one, other = compare_groups(a, b, delta=1), compare_groups(b, a, delta=1)
        np.testing.assert_allclose(one.low, -other.high)
        np.testing.assert_allclose(one.p_value, other.p_value)
        np.testing.assert_array_equal(one.verdict, other.verdict)
        np.testing.assert_array_equal(one.n_to_decide, other.n_to_decide)

    @pytest.mark.parametrize("n", [5, 20])
    def test_blocks_change_nothing(self, n, monkeypatch):
        a, b = sample(n, 3, 4), sample(n, 3, 4, seed=1)
        whole = compare_groups(a, b, delta=1)
        monkeypatch.setattr(statistics, "BLOCK", 3 * statistics.DRAWS)
        parts = compare_groups(a, b, delta=1)
        for name in PARTS:
            np.testing.assert_allclose(getattr(parts, name), getattr(whole, name))

    def test_the_seed_decides_what_is_drawn(self):
        a, b = sample(15), sample(15, seed=1)
        p = [float(compare_groups(a, b, delta=1, seed=seed).p_value) for seed in (0, 0, 1)]
        assert p[0] == p[1] != p[2]


class TestVerdict:
    @pytest.mark.parametrize("paired", [True, False])
    def test_it_is_shared_where_the_90_percent_interval_lies_within_delta(self, paired):
        a, b = sample(30), sample(30, seed=1)
        frames = same_frames(30) if paired else None
        within = compare_groups(a, b, delta=1, interval=0.9, frames=frames)
        bound = max(-within.low, within.high)
        assert compare_groups(a, b, delta=bound * 1.001, frames=frames).verdict == "shared"
        assert compare_groups(a, b, delta=bound * 0.999, frames=frames).verdict == "undecided"

    def test_the_intervals_are_those_of_benjamini_and_yekutieli(self):
        a, b = sample(12, 40), sample(12, 40, seed=1)
        a[:, :10] += 2
        found = compare_groups(a, b, delta=1e-6)
        tests = stats.ttest_ind(a, b, equal_var=False)
        selected = stats.false_discovery_control(tests.pvalue) <= 0.05
        expected = tests.confidence_interval(1 - 0.05 * selected.sum() / 40)
        np.testing.assert_allclose(found.low, expected.low)
        np.testing.assert_allclose(found.high, expected.high)
        np.testing.assert_array_equal(found.verdict == "different", selected)
        assert 8 <= selected.sum() <= 14

    def test_where_none_is_found_the_intervals_are_those_of_bonferroni(self):
        a, b = sample(12, 40), sample(12, 40, seed=1)
        expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(1 - 0.05 / 40)
        np.testing.assert_allclose(compare_groups(a, b, delta=1).low, expected.low)

    def test_a_sure_difference_that_does_not_matter_is_shared(self):
        a, b = sample(20, seed=2) * 0.01 + 0.3, sample(20, seed=3) * 0.01
        found = compare_groups(a, b, delta=0.5)
        assert found.low > 0
        assert found.verdict == "shared"
        assert compare_groups(a, b, delta=0.2).verdict == "different"

    @pytest.mark.parametrize("frames", [None, same_frames(6)])
    def test_equal_effects_are_decided_without_spread(self, frames):
        found = compare_groups(np.full((6, 2), 0.1), np.tile([0.1, 3.1], (6, 1)), delta=1, frames=frames)
        np.testing.assert_array_equal(found.verdict, ["shared", "different"])
        assert np.isnan(found.n_to_decide).all()
        np.testing.assert_allclose(found.low, [0, -3], atol=1e-12)
        assert found.p_value[0] == 1
        np.testing.assert_allclose(found.p_value[1], 2 / comb(12, 6) if frames is None else 2 / 2**6)

    @pytest.mark.parametrize(("m", "n", "frames"), [(1, 5, None), (5, 1, None), (1, 1, None), (2, 1, ([3, 3], [3]))])
    def test_one_frame_has_a_difference_and_nothing_else(self, m, n, frames):
        found = compare_groups(np.full((m, 2), 3.0), np.ones((n, 2)), delta=1, frames=frames)
        np.testing.assert_array_equal(found.difference, [2, 2])
        assert np.isnan([found.low, found.high, found.p_value, found.n_to_decide]).all()
        assert (found.verdict == "undecided").all()

    @pytest.mark.parametrize("frames", [None, same_frames(6)])
    def test_a_cell_that_is_not_finite_spoils_no_other(self, frames):
        a, b = sample(6, 4), sample(6, 4, seed=1)
        expected = compare_groups(a[:, [0, 3]], b[:, [0, 3]], delta=0.1, frames=frames)
        a[2, 1], b[1, 2] = np.nan, np.inf
        found = compare_groups(a, b, delta=0.1, frames=frames)
        assert np.isnan([found.low[1:3], found.p_value[1:3], found.n_to_decide[1:3]]).all()
        np.testing.assert_array_equal(found.verdict[1:3], "undecided")
        for name in PARTS:
            np.testing.assert_allclose(getattr(found, name)[[0, 3]], getattr(expected, name))

    @pytest.mark.parametrize("cells", [(), (3,), (2, 3), (0,)])
    def test_results_have_the_cells_shape(self, cells):
        found = compare_groups(torch.tensor(sample(4, *cells)), sample(5, *cells), delta=1)
        assert {getattr(found, name).shape for name in (*PARTS, "verdict")} == {cells}


def decided(difference, n, delta, *, paired, sets=4000, cells=1, spread=(1.0, 1.0)):
    """How often either verdict is reached on `n` frames, at the level of a single cell."""
    random = np.random.default_rng(5)
    a, b = (s * random.normal(size=(n, sets)) for s in spread)
    test = stats.ttest_1samp(a - b + difference, 0) if paired else stats.ttest_ind(a + difference, b, equal_var=False)
    alpha = 0.05 / cells
    ninety = test.confidence_interval(0.9)
    shared, different = (ninety.low > -delta) & (ninety.high < delta), test.pvalue < alpha
    return shared.mean(), different.mean(), (shared | different).mean()


def exactly(x, mean, spread):
    """The same shape of sample, with just this mean and spread."""
    return mean + spread * (x - x.mean()) / x.std(ddof=1)


class TestFramesToDecide:
    @pytest.mark.parametrize("paired", [True, False])
    @pytest.mark.parametrize(("difference", "delta"), [(0.0, 1.0), (0.2, 0.7), (0.5, 0.6), (0.9, 0.2), (0.4, 0.4)])
    def test_at_that_n_one_verdict_has_the_power_and_at_fewer_neither(self, paired, difference, delta):
        a, b = exactly(sample(6), difference, 1), exactly(sample(6, seed=1), 0, 1)
        if paired:  # differences of the spread that the simulation has
            a, b = exactly(sample(6), difference, np.sqrt(2)), np.zeros(6)
        found = compare_groups(a, b, delta=delta, frames=same_frames(6) if paired else None)
        assert found.verdict == "undecided"
        n = int(found.n_to_decide)
        assert n > 6
        shared, different, either = decided(difference, n, delta, paired=paired)
        assert 0.78 <= max(shared, different) <= 0.87
        assert either >= 0.78
        fewer = decided(difference, max(2, int(0.7 * n)), delta, paired=paired)
        assert max(fewer[:2]) < 0.78

    def test_more_cells_need_more_frames_to_differ(self):
        a, b = exactly(sample(6), 0.9, 1), exactly(sample(6, seed=1), 0, 1)
        one, many = (compare_groups(np.tile(a[:, None], k), np.tile(b[:, None], k), delta=0.01) for k in (1, 50))
        assert one.n_to_decide[0] < many.n_to_decide[0]
        n = int(many.n_to_decide[0])
        assert 0.77 <= decided(0.9, n, 0.01, paired=False, cells=50)[1] <= 0.85

    def test_each_verdict_has_its_own_and_the_first_decides(self):
        a, b = exactly(sample(6), 0.5, 1), exactly(sample(6, seed=1), 0, 1)
        found = compare_groups(a, b, delta=0.6)
        assert found.verdict == "undecided"
        shared, different, _ = decided(0.5, int(found.n_to_differ), 0.6, paired=False)
        assert 0.78 <= different <= 0.83
        assert shared < 0.2
        assert 0.78 <= decided(0.5, int(found.n_to_share), 0.6, paired=False)[0] <= 0.83
        assert found.n_to_decide == found.n_to_differ < found.n_to_share
        assert compare_groups(a, b, delta=0.4).n_to_share == np.inf

    def test_what_is_decided_needs_none(self):
        found = compare_groups(sample(30), sample(30, seed=1), delta=2)
        assert np.isnan([found.n_to_decide, found.n_to_differ, found.n_to_share]).all()

    def test_what_no_number_decides_is_infinite(self):
        assert compare_groups(np.array([-1.0, 1, -1, 1]), np.array([1.0, -1, 1, -1]), delta=1e-6).n_to_decide == np.inf


class TestRefused:
    def test_other_cells(self):
        with pytest.raises(ArgumentError, match=r"same cells .*, got \[2\] and \[3\]; average or select"):
            compare_groups(np.ones((4, 2)), np.ones((4, 3)), delta=1)

    @pytest.mark.parametrize("delta", [0, -1.0, np.inf, np.nan])
    def test_a_delta_that_is_no_difference(self, delta):
        with pytest.raises(ArgumentError, match="delta must be a difference above 0, got .*; give the smallest one"):
            compare_groups(np.ones(3), np.ones(3), delta=delta)

    def test_an_interval_outside_zero_to_one(self):
        with pytest.raises(ArgumentError, match="interval must lie between 0 and 1, got 95.0; 0.95 is usual"):
            compare_groups(np.ones(3), np.ones(3), delta=1, interval=95.0)

    def test_no_prompt(self):
        with pytest.raises(ArgumentError, match="one prompt or more"):
            compare_groups(np.ones((0, 2)), np.ones((3, 2)), delta=1)

    def test_frames_that_are_not_one_a_prompt(self):
        with pytest.raises(ArgumentError, match="one id for each prompt, got 2 ids for 3 prompts"):
            compare_groups(np.ones(3), np.ones(3), delta=1, frames=([1, 2, 3], [1, 2]))


class TestSkewed:
    match = "are so skewed that on 6 independent prompts or frames their intervals are too narrow"

    @pytest.mark.parametrize("frames", [None, same_frames(6)])
    def test_a_skewed_difference_is_warned_of(self, frames):
        with pytest.warns(MisreadWarning, match=self.match):
            compare_groups(np.eye(6)[0], np.zeros(6), delta=1, frames=frames)

    def test_skewness_that_cancels_is_not(self):
        compare_groups(np.eye(6)[0], np.eye(6)[0], delta=1)
        with pytest.warns(MisreadWarning, match=self.match):
            compare_groups(np.eye(6)[0], -np.eye(6)[0], delta=1)


SETS = 1000
MOST = 0.05 + 3 * np.sqrt(0.05 * 0.95 / SETS)
SIZES = [(2, 2), (5, 5), (8, 8), (24, 24), (60, 60), (5, 24), (8, 60)]


def null(n, kind, seed):
    random = np.random.default_rng([seed, n])
    return random.normal(size=(n, SETS)) if kind == "symmetric" else random.exponential(size=(n, SETS)) - 1


@pytest.fixture
def few_draws(monkeypatch):
    """For what does not look at p values."""
    monkeypatch.setattr(statistics, "DRAWS", 19)


def compared(a, b, **options):
    """What is found, and whether it was warned of."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        found = compare_groups(a, b, **options)
    return found, any(issubclass(one.category, MisreadWarning) for one in given)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("kind", ["symmetric", "skewed"])
@pytest.mark.parametrize(("m", "n"), SIZES)
def test_unpaired_groups_hold_their_level_or_a_warning_is_given(m, n, kind, scale):
    a, b = null(m, kind, 1), scale * null(n, kind, 2)
    found, warned = compared(a, b, delta=1e-9)
    alone = stats.ttest_ind(a, b, equal_var=False).pvalue  # the interval of a single cell
    assert (alone <= 0.05).mean() <= MOST or warned
    assert (found.p_value <= 0.05).mean() <= MOST + 0.02 * (scale != 1) or warned  # as the docstring says
    assert (found.verdict == "different").mean() <= 0.005 or warned
    assert not (warned and kind == "symmetric")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("kind", ["symmetric", "skewed"])
@pytest.mark.parametrize("n", [2, 5, 8, 24, 60])
def test_what_differs_by_delta_is_called_shared_no_more_often_than_one_time_in_twenty(few_draws, n, kind, paired):
    a, b = null(n, kind, 1) + 0.7, null(n, kind, 2)
    found, warned = compared(a, b, delta=0.7, frames=same_frames(n) if paired else None)
    assert (found.verdict == "shared").mean() <= MOST or warned


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["symmetric", "skewed"])
@pytest.mark.parametrize("n", [8, 24, 60])
def test_of_the_intervals_that_exclude_zero_few_miss(few_draws, n, kind):
    truth = np.where(np.arange(SETS) < 200, 1.5, 0.0)
    found, _ = compared(null(n, kind, 1) + truth, null(n, kind, 2), delta=1e-9)
    chosen = (found.low > 0) | (found.high < 0)
    missed = chosen & ((found.low > truth) | (found.high < truth))
    assert missed.sum() <= 0.05 * chosen.sum() + 3 * np.sqrt(0.05 * max(1, chosen.sum()))
    assert chosen[:200].mean() > {8: 0.05, 24: 0.9, 60: 0.99}[n]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("difference", "delta"), [(0.0, 0.8), (0.3, 0.8), (0.9, 0.3)])
def test_another_experiment_of_that_many_frames_decides(few_draws, difference, delta, paired):
    a, b = (exactly(sample(8, seed=seed), mean, 1) for seed, mean in ((0, difference), (1, 0)))
    if paired:
        a, b = exactly(sample(8), difference, np.sqrt(2)), np.zeros(8)
    first = compare_groups(a, b, delta=delta, frames=same_frames(8) if paired else None)
    assert first.verdict == "undecided"
    n = int(first.n_to_decide)
    random, verdicts = np.random.default_rng(3), []
    for _ in range(200):  # one cell each, as it was
        more = random.normal(difference, 1, size=n), random.normal(size=n)
        verdicts.append(str(compared(*more, delta=delta, frames=same_frames(n) if paired else None)[0].verdict))
    assert np.mean([one != "undecided" for one in verdicts]) >= 0.71  # 0.8, less three standard errors
    expected = "shared" if difference < delta / 2 else "different"
    assert 0.71 <= verdicts.count(expected) / 200 <= 0.93
