"""What a run tells of its steps: a line each in `metrics.jsonl`, and curves for TensorBoard or wandb."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from pellucid.base.errors import CheckpointError, OutputError
from pellucid.base.files import written_aside
from pellucid.base.optional import optional
from pellucid.train.loop import Told

METRICS = "metrics.jsonl"


class Log:
    """The curves of a run, kept as they come; use it as a context.

    Args:
        folder: Of the run; None: only in memory.
        also: ``"tensorboard"``, ``"wandb"``.
        settings: What wandb is told about the run.
        step: Where the run goes on: what was told of later steps, before it was stopped, is told again.
        writes: False only reads and remembers: of several processes, one writes.

    Raises:
        MissingExtraError: TensorBoard or wandb is asked for and not installed.
        CheckpointError: The file of an earlier part of the run is damaged.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        also: Sequence[str] = (),
        settings: dict[str, Any] | None = None,
        step: int = 0,
        writes: bool = True,
    ) -> None:
        self.steps, self._lines = ([], []) if folder is None else _read(folder / METRICS, step)
        self.folder = folder = folder if writes else None
        self._also = [_SINKS[name](folder, settings or {}, step) for name in also if folder is not None]

    def __enter__(self) -> "Log":
        if self.folder is not None:
            with written_aside(self.folder / METRICS) as aside:
                aside.write_text("".join(f"{line}\n" for line in self._lines), encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for sink in self._also:
            sink.end()

    def tell(self, told: Sequence[Told], *, seconds: float) -> None:
        """Takes in some steps.

        Args:
            told: What there is to tell of each.
            seconds: That they took together.

        Raises:
            OutputError: The file cannot be written.
        """
        if not told:
            return
        self.steps += told
        pace = sum(one.tokens for one in told) / max(seconds, 1e-9)
        if self.folder is not None:
            try:
                with (self.folder / METRICS).open("a", encoding="utf-8") as file:
                    file.writelines(_line(one, pace) for one in told)
            except OSError as error:
                raise OutputError(
                    f"{self.folder / METRICS} must be writable, got: {error}; make room, and go on with --resume"
                ) from error
        for sink in self._also:
            for one in told:
                sink.tell(one.step, {"loss": one.loss, "lr": one.lr, "tokens_per_second": pace})

    def tell_probe(self, step: int, numbers: dict[str, float]) -> None:
        """Takes in numbers that were measured at a step."""
        for sink in self._also:
            sink.tell(step, numbers)


def check_installed(names: Sequence[str]) -> None:
    """Whether what the curves go to is installed.

    Raises:
        MissingExtraError: It is not.
    """
    for name in names:
        optional(name, extra={"tensorboard": "train"}.get(name, name))


class _TensorBoard:
    def __init__(self, folder: Path, settings: dict[str, Any], step: int) -> None:
        optional("tensorboard", extra="train")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def tell(self, step: int, numbers: dict[str, float]) -> None:
        for name, number in numbers.items():
            self.writer.add_scalar(name, number, step)

    def end(self) -> None:
        self.writer.close()


class _Wandb:
    def __init__(self, folder: Path, settings: dict[str, Any], step: int) -> None:
        wandb = optional("wandb", extra="wandb")
        self.run = wandb.init(project="pellucid", dir=str(folder), config=settings)

    def tell(self, step: int, numbers: dict[str, float]) -> None:
        self.run.log(numbers, step=step)

    def end(self) -> None:
        self.run.finish()


_SINKS: dict[str, Any] = {"tensorboard": _TensorBoard, "wandb": _Wandb}


def _line(told: Told, pace: float) -> str:
    return json.dumps(asdict(told) | {"tokens_per_second": round(pace, 1)}) + "\n"


def _read(path: Path, step: int) -> tuple[list[Told], list[str]]:
    """What was told up to a step, and the lines that say so."""
    if not step:
        return [], []
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        for line in lines:
            if not line.endswith("}"):  # the run was killed while it wrote
                break
            values = json.loads(line)
            found.append(Told(**{name: values[name] for name in ("step", "loss", "lr", "tokens")}))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} must hold a line for each step that was taken, got: {error}") from error
    if [one.step for one in found[:step]] != list(range(1, step + 1)):
        raise CheckpointError(f"{path} must hold a line for each of the first {step} steps; begin again")
    return found[:step], lines[:step]
