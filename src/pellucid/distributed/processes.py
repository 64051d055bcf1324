"""Jobs that run in several processes of this machine, with its threads divided among them."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.distributed.executor import finished, settled
from pellucid.distributed.journal import Journal

KILLED = "its process was killed, as a system does that is out of memory"


@dataclass(frozen=True)
class Processes:
    """The executor that takes all cores.

    Each process begins anew (it is spawned): a function that jobs are given to must be one that a module has, and a
    script that uses this must keep its own work under ``if __name__ == "__main__"``.

    Args:
        n: Processes; None: one for each core that this process may use.
        threads: Of each; None: the cores divided among them.
        max_memory: Bytes that a process may take beyond what it has when it begins; what asks for more gets an error.
            None: no bound. It is kept where the system can (Linux), for memory of the CPU.
        lost: What stands for a job whose process was killed, given the job and how; None: that is an error.

    Raises:
        ArgumentError: A number is below 1.
    """

    n: int | None = None
    threads: int | None = None
    max_memory: int | None = None
    lost: Callable[[Any, str], Mapping[str, Tensor]] | None = None

    def __post_init__(self) -> None:
        for name in ("n", "threads", "max_memory"):
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
            ArgumentError: `function` returned something else than tensors by name, or a process was killed, and
                nothing stands for what is `lost`.
        """
        held = [None if journal is None else journal.read(job) for job in jobs]
        results = {place: result for place, result in enumerate(held) if result is not None}

        def keep(place: int, found: Mapping[str, Tensor]) -> None:
            results[place] = finished(jobs[place], found, journal, advance)

        left = [place for place in range(len(jobs)) if place not in results]
        n = min(self.n or _cores(), max(1, len(jobs)))
        threads = self.threads or max(1, _cores() // n)  # also where fewer are left, or one alone: the last bits differ
        while left:
            broken = self._gather(function, {place: jobs[place] for place in left}, n, threads, keep)
            left = [place for place in left if place not in results]
            if broken and self.lost is None:
                raise ArgumentError(
                    "a process must live until its job ends, but one was killed (out of memory?) while "
                    f"{jobs[broken[0]]} or another job ran; take fewer processes"
                )
            # One of those that ran killed its process. Each once more, with no other beside it: then it shows which.
            for place in broken:
                if self._gather(function, {place: jobs[place]}, 1, threads, keep) and self.lost is not None:
                    keep(place, self.lost(jobs[place], KILLED))
                left.remove(place)
        return [results[place] for place in range(len(jobs))]

    def _gather(
        self,
        function: Callable[[Any], Mapping[str, Tensor]],
        jobs: Mapping[int, Any],
        n: int,
        threads: int,
        keep: Callable[[int, Mapping[str, Tensor]], None],
    ) -> list[int]:
        """Takes what ends, as it ends; gives back those that may have killed their process."""
        context = multiprocessing.get_context("spawn")
        waiting, left, broken = dict[Future[dict[str, Tensor]], int](), list(jobs), list[int]()
        with ProcessPoolExecutor(
            n, mp_context=context, initializer=_begun, initargs=(threads, self.max_memory)
        ) as pool:
            try:
                while (left and not broken) or waiting:
                    while left and not broken and len(waiting) < n:  # so that what waits is what runs
                        waiting[pool.submit(_run, function, jobs[left[0]])] = left[0]
                        left.pop(0)
                    ended, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in sorted(ended, key=lambda one: one.exception() is not None):  # what went well first
                        place = waiting.pop(future)
                        try:
                            found = future.result()
                        except BrokenProcessPool:
                            broken.append(place)
                        else:
                            keep(place, found)
            except BrokenProcessPool:  # it was killed between two jobs
                broken += [*waiting.values()]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return sorted(broken)


def _begun(threads: int, max_memory: int | None) -> None:
    """Makes a new process ready: it ends when the one that wants its results is gone, however that ended."""
    torch.set_num_threads(threads)
    if max_memory is not None and sys.platform == "linux":
        _bound(max_memory)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _bound(max_memory: int) -> None:
    """Bounds the memory of this process, counted from what it has now."""
    import resource

    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    now = int(fields["VmData"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (now + max_memory, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _run(function: Callable[[Any], Mapping[str, Tensor]], job: Any) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in settled(function(job)).items()}


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
