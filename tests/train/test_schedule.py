import math

import pytest

from pellucid.base.errors import ConfigError
from pellucid.train.schedule import Schedule


def rates(steps=10, **changes):
    plan = Schedule(**changes)
    return [plan.rate(step, steps) for step in range(steps)]


def test_the_rate_rises_and_falls_in_straight_lines_by_default():
    assert rates(warmup=4) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_it_may_stay_before_it_falls():
    assert rates(warmup=1, decay=0.3) == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3])


def test_it_may_fall_as_a_cosine_or_not_at_all():
    cosine = [0.5 + 0.5 * math.cos(math.pi * step / 8) for step in range(8)]
    assert rates(warmup=2, shape="cosine") == pytest.approx([1 / 3, 2 / 3, *cosine])
    assert rates(warmup=1, shape="constant") == pytest.approx([0.5] + [1] * 9)


@pytest.mark.parametrize("shape", ["stable-decay", "cosine"])
def test_the_floor_is_where_it_ends(shape):
    assert rates(steps=1000, warmup=0, shape=shape, floor=0.1)[-1] == pytest.approx(0.1, abs=1e-3)


def test_no_decay_stays_at_the_highest_rate():
    assert rates(warmup=0, decay=0.0) == [1.0] * 10


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"warmup": -1}, "warmup must be 0 or more steps, got -1"),
        ({"decay": 1.5}, "decay must be a share, from 0 to 1, got 1.5"),
        ({"floor": -0.1}, "floor must be a share, from 0 to 1, got -0.1"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(changes, found):
    with pytest.raises(ConfigError, match=found):
        Schedule(**changes)


def test_a_warm_up_that_takes_all_steps_is_refused():
    with pytest.raises(ConfigError, match="must be less than steps, got warmup=20, steps=20; train longer"):
        Schedule(warmup=20).check(20)
