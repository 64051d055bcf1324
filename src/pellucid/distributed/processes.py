"""Jobs that run in several processes of this machine, with its threads divided among them."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.distributed.executor import settled
from pellucid.distributed.journal import Journal


@dataclass(frozen=True)
class Processes:
    """The executor that takes all cores.

    Each process begins anew (it is spawned): a function that jobs are given to must be one that a module has, and a
    script that uses this must keep its own work under ``if __name__ == "__main__"``.

    Args:
        n: Processes; None: one for each core that this process may use.
        threads: Of each; None: the cores divided among them.

    Raises:
        ArgumentError: A number is below 1.
    """

    n: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("n", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(f"{name} must be 1 or more, got {value}; leave it out for what there is here")

    def map(
        self,
        function: Callable[[Any], Mapping[str, Tensor]],
        jobs: Sequence[Any],
        *,
        journal: Journal | None = None,
        advance: Callable[[int], object] | None = None,
    ) -> list[dict[str, Tensor]]:
        """What a function gives for each job, in order; see `pellucid.distributed.executor.Executor`.

        Args:
            function: From a job to tensors by name.
            jobs: What tells them apart, as JSON values.
            journal: Begun with these jobs. What it holds is not run again; what is run is kept there, by this process.
            advance: Is told 1 whenever a job was run.

        Raises:
            ArgumentError: `function` returned something else than tensors by name, or a process was killed.
        """
        results = [None if journal is None else journal.read(job) for job in jobs]
        left = [place for place, result in enumerate(results) if result is None]
        if left:
            n = min(self.n or _cores(), len(left))
            threads = self.threads or max(1, _cores() // n)
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(n, mp_context=context, initializer=_begun, initargs=(threads,))
            with pool:
                running = {pool.submit(_run, function, jobs[place]): place for place in left}
                try:
                    _gather(running, results, jobs, journal, advance)
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        return [result for result in results if result is not None]


def _gather(
    running: dict["Future[dict[str, Tensor]]", int],
    results: list[dict[str, Tensor] | None],
    jobs: Sequence[Any],
    journal: Journal | None,
    advance: Callable[[int], object] | None,
) -> None:
    """Takes what ends, as it ends."""
    waiting = set(running)
    while waiting:
        ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in sorted(ended, key=lambda future: future.exception() is not None):  # what went well is kept first
            place = running[future]
            try:
                results[place] = found = future.result()
            except BrokenProcessPool as error:
                raise ArgumentError(
                    f"a process must live until its job ends, but one was killed (out of memory?) while {jobs[place]} "
                    "or another job ran; take fewer processes"
                ) from error
            if journal is not None:
                journal.keep(jobs[place], found)
            if advance is not None:
                advance(1)


def _begun(threads: int) -> None:
    """Makes a new process ready: it ends when the one that wants its results is gone, however that ended."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run(function: Callable[[Any], Mapping[str, Tensor]], job: Any) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in settled(function(job)).items()}


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
