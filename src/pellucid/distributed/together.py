"""Jobs each of which several processes do together, one job after the other, as `accelerate launch` starts them."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.base.optional import optional
from pellucid.distributed.executor import finished
from pellucid.distributed.journal import Journal


def launched() -> bool:
    """Whether this process has others beside it, which `accelerate launch` or torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@dataclass(frozen=True)
class Together:
    """The executor of a process that has others beside it, which run the same program.

    All of them go through the jobs in the same order. The first one alone keeps the journal, and its results count.

    Raises:
        MissingExtraError: `accelerate` is not installed.
    """

    def __post_init__(self) -> None:
        optional("accelerate", extra="train")

    @property
    def is_main(self) -> bool:
        """Whether this process is the first one."""
        return self._state.is_main_process

    @property
    def _state(self) -> Any:
        return optional("accelerate", extra="train").PartialState(cpu=not torch.cuda.is_available())

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
            function: From a job to tensors by name; it is called in every process.
            jobs: What tells them apart, as JSON values.
            journal: The first process's, begun with these jobs; None in the others.
            advance: Is told 1 whenever a job was run.

        Returns:
            In the first process. In another one, what it made itself, and nothing for jobs that the journal held.
        """
        results = [None if journal is None else journal.read(job) for job in jobs]
        left = [result is None for result in results]
        if self._state.num_processes > 1:
            optional("accelerate", extra="train").utils.broadcast_object_list(left, from_process=0)
        for place, job in enumerate(jobs):
            if left[place]:
                results[place] = finished(job, function(job), journal, advance)
        return [{} if result is None else result for result in results]
