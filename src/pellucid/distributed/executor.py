"""What runs independent jobs, wherever that is."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.distributed.journal import Journal


@runtime_checkable
class Executor(Protocol):
    """Runs jobs."""

    def map(
        self, function: Callable[[Any], Mapping[str, Tensor]], jobs: Sequence[Any], *, journal: Journal | None = None
    ) -> list[dict[str, Tensor]]:
        """What a function gives for each job, in the order of the jobs.

        Args:
            function: From a job to tensors by name; the same for the same job, whatever ran before.
            jobs: What tells them apart, as JSON values.
            journal: Begun with these jobs. What it holds is not run again; what is run is kept there.

        Returns:
            Tensors that lie on the CPU, without gradients.
        """
        ...


def finished(
    job: Any, result: Any, journal: Journal | None, advance: Callable[[int], object] | None
) -> dict[str, Tensor]:
    """What a job gave, kept in the journal and told, where there are such.

    Raises:
        ArgumentError: It is something else than tensors by name, or the job is not the journal's.
        OutputError: The journal cannot be written to.
    """
    found = settled(result)
    if journal is not None:
        journal.keep(job, found)
    if advance is not None:
        advance(1)
    return found


def settled(result: Any) -> dict[str, Tensor]:
    """What a job gave, as an executor returns it.

    Raises:
        ArgumentError: It is something else than tensors by name.

    Example:
        >>> import torch
        >>> settled({"effect": torch.ones(2, requires_grad=True)})
        {'effect': tensor([1., 1.])}
    """
    if not isinstance(result, Mapping) or not all(
        isinstance(name, str) and isinstance(x, Tensor) for name, x in result.items()
    ):
        raise ArgumentError(f"a job must return tensors by name, a dict, got {result!r:.80}")
    return {name: x.detach().cpu() for name, x in result.items()}
