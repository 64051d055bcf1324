import numpy as np
import pytest
from scipy import stats

from pellucid.studies.over_runs import difference, mean, median, share, verdict
from pellucid.studies.result import Figure

A, B = [1.0, 2.0, 4.0, 3.0], [0.0, 0.5, 0.25]


def test_a_mean_has_students_interval_and_leaves_out_runs_without_a_number():
    found = mean([*A, np.nan], "steps", label="x")
    half = stats.t.ppf(0.975, 3) * np.std(A, ddof=1) / 2
    assert (found.value, found.low, found.high) == pytest.approx((2.5, 2.5 - half, 2.5 + half))
    assert (found.unit, found.label) == ("steps", "x")


def test_an_interval_ends_where_every_number_must():
    plain, bound = (mean([0.0, 1.0, 1.0], "fraction", bounds=bounds) for bounds in ((-9, 9), (0, 1)))
    assert plain.low < 0 and plain.high > 1
    assert (bound.value, bound.low, bound.high) == (plain.value, 0, 1)


def test_one_run_has_no_interval_and_none_has_a_reason():
    assert mean([3.0], "steps") == Figure(unit="steps", value=3.0, reason="one run has no interval")
    assert mean([np.nan], "steps", reason="none formed") == Figure(unit="steps", reason="none formed")


def test_a_share_has_wilsons_interval_and_says_how_many():
    found = share([1, 1, 1, 0, 1, 1, 1, 1])
    z, p, n = stats.norm.ppf(0.975), 7 / 8, 8
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    ends = ((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n))
    assert (found.value, found.low, found.high) == pytest.approx((p, *ends))
    assert found.label == "7 of 8"
    assert share([0, 0]).value == 0
    assert share([], reason="none formed").reason == "none formed"


def test_a_median_has_the_interval_of_order_statistics_where_there_are_enough():
    numbers = [5.0, 1.0, 8.0, 3.0, 2.0, 9.0, 4.0, 7.0]
    found = median(numbers, "steps")
    # Of 8 numbers, the median lies outside of all with a probability of 2 / 2**8; with one less on each side, too much.
    assert (found.value, found.low, found.high) == (4.5, 1.0, 9.0)
    few = median(numbers[:4], "steps")
    assert few.value == 4.0 and few.low is None and few.reason == "4 runs are too few for an interval"
    assert median([np.nan], "steps", reason="none").reason == "none"


def test_a_difference_has_welchs_interval():
    found = difference(A, B, "tokens")
    va, vb = np.var(A, ddof=1) / 4, np.var(B, ddof=1) / 3
    df = (va + vb) ** 2 / (va**2 / 3 + vb**2 / 2)
    half = stats.t.ppf(0.975, df) * np.sqrt(va + vb)
    gap = np.mean(A) - np.mean(B)
    assert (found.value, found.low, found.high) == pytest.approx((gap, gap - half, gap + half))


def test_a_difference_of_too_few_runs_says_so():
    assert difference([1.0], B, "tokens").reason == "an interval needs two runs that differ on each side"
    assert difference([np.nan], B, "tokens").value is None


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.1, 1.0, "above"), (-1.0, -0.1, "below"), (-0.1, 0.1, "undecided"), (None, None, "undecided")],
)
def test_a_verdict_follows_the_interval(low, high, said):
    figure = Figure(unit="tokens", value=0.0, low=low, high=high, reason="few")
    assert verdict(figure, above="above", below="below", undecided="undecided") == said
