"""Jobs that run in this process, one after the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pellucid.distributed.executor import finished
from pellucid.distributed.journal import Journal


@dataclass(frozen=True)
class Local:
    """The executor that needs nothing.

    Example:
        >>> import torch
        >>> Local().map(lambda job: {"square": torch.tensor(job**2)}, [2, 3])
        [{'square': tensor(4)}, {'square': tensor(9)}]
    """

    def map(
        self,
        function: Callable[[Any], Mapping[str, Tensor]],
        jobs: Sequence[Any],
        *,
        journal: Journal | None = None,
        advance: Callable[[int], object] | None = None,
    ) -> list[dict[str, Tensor]]:
        """What a function gives for each job, in order; an interrupt leaves the finished ones in the journal.

        Args:
            function: From a job to tensors by name.
            jobs: What tells them apart, as JSON values.
            journal: Begun with these jobs. What it holds is not run again; what is run is kept there.
            advance: Is told 1 whenever a job was run.

        Returns:
            Tensors that lie on the CPU, without gradients.

        Raises:
            CheckpointError: A file of the journal is damaged; nothing was run.
            OutputError: The journal cannot be written to.
            ArgumentError: `function` returned something else than tensors by name, or a job is not the journal's.
        """
        held = [None if journal is None else journal.read(job) for job in jobs]
        results = []
        for job, result in zip(jobs, held, strict=True):
            if result is None:
                result = finished(job, function(job), journal, advance)
            results.append(result)
        return results
