import pytest

from pellucid.base.errors import ConfigError
from pellucid.train.checkpoints import Checkpoints
from pellucid.train.moments import Moments
from pellucid.train.probes import Probes


def test_powers_of_two_every_so_manieth_the_first_and_the_last():
    assert sorted(Moments(every=30).steps(100, parts=1)) == [0, 1, 2, 4, 8, 16, 30, 32, 60, 64, 90, 100]
    assert sorted(Moments(log_spaced=False, every=30).steps(100, parts=1)) == [0, 30, 60, 90, 100]
    assert sorted(Moments(log_spaced=False, every=0).steps(100, parts=1)) == [0, 100]


def test_parts_of_the_run_where_nothing_is_said():
    plain = {"log_spaced": False}
    assert sorted(Checkpoints(**plain).of(1000)) == list(range(0, 1001, 100))
    assert sorted(Probes(**plain).of(1000)) == list(range(0, 1001, 25))
    assert sorted(Checkpoints(**plain).of(3)) == [0, 1, 2, 3]


def test_less_than_no_steps_are_refused():
    with pytest.raises(ConfigError, match="every must be 0 or more steps, got -1"):
        Moments(every=-1)
