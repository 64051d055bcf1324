"""How a plan is split so that it fits: everything runs once, nothing exceeds the bound, what cannot fit says so."""

import pytest

from pellucid.base.errors import ArgumentError, TooLargeError
from pellucid.patching.budget import Budget, as_bytes
from pellucid.patching.grid import Question
from pellucid.patching.needs import Need
from pellucid.patching.plan import Entry, make_plan
from tests.models import config_of
from tests.patching.test_plan import scene

CONFIG = config_of(n_layers=3)


def split(limit: int, *, over=("layer", "neuron"), site="post", plainly=None, most_rows=2**14, **more):
    plan = make_plan(Question((site,), over, plainly=plainly), scene(**more))
    budget = Budget(CONFIG, 4, limit, most_rows)
    items, jobs = budget.split(plan, Need(CONFIG, edited=False), logits_of=1)
    return plan, items, jobs


@pytest.mark.parametrize("limit", [10**5, 3 * 10**5, 10**9])
@pytest.mark.parametrize("plainly", [None, "it is held"])
def test_every_cell_is_in_one_job(limit, plainly):
    plan, items, jobs = split(limit, plainly=plainly, lengths=(6, 6), first=(2, 3), wanted=((5,), (5,)))
    cells = sorted(cell for item in items for cell in item.cells.tolist())
    assert cells == sorted(cell for item in plan.items for cell in item.cells.tolist())
    assert [i for job in jobs for i in job] == list(range(len(items)))
    assert all(len(job) for job in jobs)


def test_a_smaller_bound_makes_more_jobs():
    few, many = (len(split(limit)[2]) for limit in (10**9, 10**5))
    assert few == 1 < many


def test_no_job_carries_more_rows_than_are_good():
    _, items, jobs = split(10**9, most_rows=12)
    for job in jobs:
        assert sum(len(items[i].cells) * items[i].carried for i in job if isinstance(items[i], Entry)) <= 12


def test_rows_are_carried_even_where_one_cell_has_more_than_are_good():
    assert all(len(item.cells) == 1 for item in split(10**9, most_rows=2)[1])


@pytest.mark.parametrize("plainly", [None, "it is held"])
def test_a_bound_below_one_cell_says_what_is_needed(plainly):
    with pytest.raises(TooLargeError, match=r"one cell at least, which takes 0\.\d MB here, .*got 0\.0 MB; raise it"):
        split(1000, plainly=plainly)


@pytest.mark.parametrize(
    ("told", "size"),
    [(2048, 2048), ("2GB", 2 * 10**9), ("1.5 MiB", 3 * 2**19), ("500", 500), ("1e9", None), ("-1", None)],
)
def test_a_size_is_read_or_refused(told, size):
    if size is not None:
        assert as_bytes(told) == size
        return
    with pytest.raises(ArgumentError, match="max_memory must be bytes, or text such as '2GB', got"):
        as_bytes(told)
