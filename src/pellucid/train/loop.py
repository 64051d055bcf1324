"""The training loop: batches in, a model whose weights have moved out.

In: a model, a stream of batches, and how to move. Each step takes one global batch; several processes take their parts
of the same one, so that their number does not change what is learned. Everything that a step depends on is in `state`,
so that a run which was stopped at any moment goes on as if it had not been.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pellucid.base.errors import ConfigError, TrainingError
from pellucid.base.optional import optional
from pellucid.model.decoder import Decoder
from pellucid.train.loss import summed_loss
from pellucid.train.optimiser import Optimiser
from pellucid.train.schedule import Schedule
from pellucid.train.sequences import IGNORED, Batch
from pellucid.train.stream import Stream

if TYPE_CHECKING:
    import accelerate


@dataclass(frozen=True, kw_only=True)
class Told:
    """What there is to tell of a step."""

    step: int
    """Its number; the first one is 1."""
    loss: float
    """The mean over the targets of its batch, before it moved the weights; nats."""
    lr: float
    """The learning rate that it took."""
    tokens: int
    """Tokens that it read, of all processes."""


class Objective(nn.Module):
    """A model and its loss, as one module: what several processes keep in step."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor, source: Tensor | None = None) -> Tensor:
        """The sum of the losses of the targets that count."""
        if source is None:
            x = Decoder.forward(self.model, tokens, unembed=False)
        else:
            x = self.model(source, tokens, unembed=False)
        return summed_loss(x, self.model.unembed.W_U, self.model.unembed.b_U, targets)


class Training:
    """A model on its way.

    Args:
        model: What is trained, in place: a decoder, or an encoder–decoder where the batches have a source.
        stream: Its batches.
        steps: Updates of the weights, all in all.
        optimiser: What moves the weights.
        schedule: How the learning rate goes.
        parts: How many parts of a batch are run one after the other (gradient accumulation); it changes memory only.
        precision: ``"float32"``, or ``"bfloat16"``: products in bfloat16 where torch deems that safe, weights in
            float32.

    Raises:
        ConfigError: The batch cannot be split so, or the schedule does not fit the steps.
        MissingExtraError: `accelerate` is not installed.
    """

    def __init__(
        self,
        model: Any,
        stream: Stream,
        *,
        steps: int,
        optimiser: Optimiser,
        schedule: Schedule,
        parts: int = 1,
        precision: str = "float32",
    ) -> None:
        self.model, self.stream, self.steps = model, stream, steps
        self.schedule, self.clip = schedule, optimiser.clip
        schedule.check(steps)
        self.accelerator = accelerator(model.device, precision)
        self.parts = parts
        processes = self.accelerator.num_processes
        if parts < 1 or stream.batch % (parts * processes):
            raise ConfigError(
                f"batch_size must be a multiple of parts × processes = {parts} × {processes}, got {stream.batch}"
            )
        self.optimiser = optimiser.made(model)
        objective = Objective(model).train()
        self.objective: Any = self.accelerator.prepare(objective)
        self.step = 0
        """Steps that were taken."""
        self._moved = [p for group in self.optimiser.param_groups for p in group["params"]]
        self._untold: list[tuple[int, Tensor, float, int]] = []

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return self.accelerator.is_main_process

    def advance(self) -> None:
        """One step."""
        batch = next(self.stream)
        count = int((batch.targets != IGNORED).sum())
        rate = self.schedule.rate(self.step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * self.optimiser.defaults["lr"]
        self.optimiser.zero_grad()
        total: Any = 0.0
        for i, part in enumerate(self._ours(batch)):
            with self._alone() if i < self.parts - 1 else nullcontext():
                loss = self.objective(*part) / max(count, 1)
                # Processes take the mean of their gradients, and what is wanted is the sum.
                (loss * self.accelerator.num_processes).backward()
            total = total + loss.detach()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self._moved, self.clip)
        self.optimiser.step()
        self.step += 1
        lr = rate * self.optimiser.defaults["lr"]
        self._untold.append((self.step, total, lr, batch.tokens.numel()))

    def told(self) -> list[Told]:
        """What there is to tell of the steps since it was last asked; on a GPU, this waits for them.

        Raises:
            TrainingError: A loss is no finite number.
        """
        untold, self._untold = self._untold, []
        if not untold:
            return []
        losses: Any = self.accelerator.reduce(torch.stack([loss for _, loss, _, _ in untold]), "sum")
        found = [
            Told(step=step, loss=loss, lr=lr, tokens=tokens)
            for (step, _, lr, tokens), loss in zip(untold, losses.tolist(), strict=True)
        ]
        for one in found:
            if not torch.isfinite(torch.tensor(one.loss)):
                raise TrainingError(
                    f"the loss must be a finite number, got {one.loss} at step {one.step} of {self.steps}, with "
                    f"learning rate {one.lr:.3g}; train with a smaller optimiser.lr, a longer schedule.warmup, or "
                    "a smaller optimiser.clip"
                )
        return found

    def check_weights(self) -> None:
        """Whether all weights are numbers, as they must be before they are kept.

        Raises:
            TrainingError: Some are not.
        """
        for name, parameter in self.model.named_parameters():
            if not parameter.isfinite().all():
                raise TrainingError(
                    f"weights must be finite numbers, {name} is not after step {self.step} of {self.steps}; train with "
                    "a smaller optimiser.lr, a longer schedule.warmup, or a smaller optimiser.clip"
                )

    def state(self) -> dict[str, Tensor]:
        """All that the next steps depend on beside the weights, by name."""
        found = {"step": torch.tensor(self.step), "random": torch.get_rng_state(), "place": self.stream.place}
        if torch.cuda.is_available():
            found["random.cuda"] = torch.cuda.get_rng_state()
        for i, parameter in enumerate(self._moved):
            for name, value in self.optimiser.state.get(parameter, {}).items():
                found[f"moment.{i}.{name}"] = value.detach().cpu()
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on from a state; the weights must be those of the same step."""
        self.step = int(state["step"])
        torch.set_rng_state(state["random"])
        if "random.cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["random.cuda"])
        self.stream.place = state["place"]
        for i, parameter in enumerate(self._moved):
            prefix = f"moment.{i}."
            found = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
            self.optimiser.state[parameter] = {
                name: v.to(parameter.device) if v.ndim == 0 else torch.empty_like(parameter).copy_(v)
                for name, v in found.items()
            }

    def _ours(self, batch: Batch) -> Iterator[tuple[Tensor, ...]]:
        """This process's rows of a batch, in parts, on the model's device."""
        ours = len(batch.tokens) // self.accelerator.num_processes
        first, n = self.accelerator.process_index * ours, ours // self.parts
        for start in range(first, first + ours, n):
            yield tuple(
                part[start : start + n].to(self.model.device, non_blocking=True) for part in batch if part is not None
            )

    def _alone(self) -> AbstractContextManager[Any]:
        return self.accelerator.no_sync(self.objective)


def accelerator(device: torch.device | str, precision: str = "float32") -> "accelerate.Accelerator":
    """Where this process runs, and with which others.

    Args:
        device: The kind of device; with several, accelerate gives each process its own.
        precision: Of products.

    Raises:
        MissingExtraError: `accelerate` is not installed.
    """
    found = optional("accelerate", extra="train")
    mixed = {"float32": "no", "bfloat16": "bf16"}[precision]
    found.state.AcceleratorState._reset_state()  # another run of this process may have had another precision
    # The model lies where it shall: what an earlier run of this process took for its device must not move it.
    return found.Accelerator(cpu=torch.device(device).type == "cpu", mixed_precision=mixed, device_placement=False)
