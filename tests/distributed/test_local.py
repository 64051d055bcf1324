"""Jobs in this process: their results in order, each run once, and what an interrupt leaves."""

import pytest
import torch

from pellucid.base.errors import ArgumentError
from pellucid.distributed.executor import Executor
from pellucid.distributed.journal import Journal
from pellucid.distributed.local import Local


def begun(folder, jobs):
    journal = Journal.open(folder, identity={"function": "square"})
    journal.begin(jobs)
    return journal


def noting(ran):
    """A function of jobs that notes which ones it was given."""

    def square(job):
        ran.append(job)
        return {"square": torch.tensor(job**2)}

    return square


def squares(results):
    return [int(result["square"]) for result in results]


def test_it_is_an_executor():
    assert isinstance(Local(), Executor)


def test_results_come_in_the_order_of_the_jobs():
    assert squares(Local().map(noting([]), [3, 1, 2])) == [9, 1, 4]
    assert Local().map(noting([]), []) == []


def test_a_journal_takes_each_result_as_soon_as_it_is_there(tmp_path):
    journal = begun(tmp_path, [3, 1, 2])

    def square(job):
        assert [journal.holds(other) for other in (3, 1, 2)] == [other in ran for other in (3, 1, 2)]
        return noting(ran)(job)

    ran = []
    assert squares(Local().map(square, [3, 1, 2], journal=journal)) == [9, 1, 4]
    assert ran == [3, 1, 2]


def test_what_the_journal_holds_is_not_run_again(tmp_path):
    begun(tmp_path, [3, 1, 2]).keep(1, {"square": torch.tensor(100)})
    ran, told = [], []
    found = Local().map(noting(ran), [3, 1, 2], journal=begun(tmp_path, [3, 1, 2]), advance=told.append)
    assert squares(found) == [9, 100, 4]
    assert ran == [3, 2] and told == [1, 1]
    assert squares(Local().map(noting(ran), [3, 1, 2], journal=begun(tmp_path, [3, 1, 2]))) == [9, 100, 4]
    assert ran == [3, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_ends_it_leaves_the_finished_jobs(tmp_path, error):
    def square(job):
        if job == 2:
            raise error
        return noting(ran)(job)

    ran = []
    with pytest.raises(error):
        Local().map(square, [3, 1, 2, 5], journal=begun(tmp_path, [3, 1, 2, 5]))
    assert squares(Local().map(noting(ran), [3, 1, 2, 5], journal=begun(tmp_path, [3, 1, 2, 5]))) == [9, 1, 4, 25]
    assert ran == [3, 1, 2, 5]


@pytest.mark.parametrize("kept", [False, True])
def test_results_are_the_same_with_and_without_a_journal(tmp_path, kept):
    weight = torch.randn(3, 4, requires_grad=True)
    journal = begun(tmp_path, [2]) if kept else None
    for _ in range(2):
        ((name, found),) = Local().map(lambda job: {"y": (job * weight).T}, [2], journal=journal)[0].items()
        assert name == "y" and torch.equal(found, 2 * weight.detach().T)
        assert not found.requires_grad


@pytest.mark.parametrize("result", [None, torch.ones(2), {"x": 3.0}, {1: torch.ones(2)}])
def test_what_a_job_returns_must_be_tensors_by_name(tmp_path, result):
    with pytest.raises(ArgumentError, match="a job must return tensors by name, a dict, got "):
        Local().map(lambda job: result, [1], journal=begun(tmp_path, [1]))
    assert begun(tmp_path, [1]).read(1) is None
