"""What a run keeps on its way: the model of chosen steps, and with the last one all that is needed to go on.

A checkpoint is a folder that `from_pretrained` reads, written aside and renamed: whoever looks finds a whole one or
none, whenever the run was killed. The optimiser's state lies in the newest alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pellucid.base.errors import CheckpointError, OutputError
from pellucid.base.files import written_aside
from pellucid.base.record import Record
from pellucid.pretrained.checkpoints import FOLDER, checkpoint_name, checkpoints
from pellucid.pretrained.export import save_pretrained
from pellucid.text.tokenizer import Tokenizer
from pellucid.train.moments import Moments

STATE = "training.safetensors"
"""The file beside a model that says how its training goes on."""


@dataclass(frozen=True, kw_only=True)
class Checkpoints(Moments):
    """Which steps' models are kept; every tenth part of the run where `every` is None."""

    def of(self, steps: int) -> frozenset[int]:
        """Those steps."""
        return self.steps(steps, parts=10)


@dataclass(frozen=True, kw_only=True)
class Keeper:
    """Writes the checkpoints of a run to its folder, and reads the newest.

    Args:
        folder: Of the run.
        tokenizer: Kept with each model.
        record: How the run was made.
    """

    folder: Path
    tokenizer: Tokenizer | None
    record: Record

    def keep(self, model: Any, step: int, state: dict[str, Tensor]) -> None:
        """Writes a checkpoint; those before it cannot be gone on from any more.

        Raises:
            OutputError: It cannot be written; the ones before are as they were.
        """
        from safetensors.torch import save

        older = checkpoints(self.folder)
        path = self.folder / FOLDER / checkpoint_name(step)
        record = self.record.add(settings={"step": step})
        try:
            with written_aside(path) as aside:
                save_pretrained(model, aside, family="pellucid", tokenizer=self.tokenizer, record=record)
                (aside / STATE).write_bytes(save({name: x.contiguous() for name, x in state.items()}))
        except OSError as error:
            last = f"the last good one is step {max(older)}" if older else "there is none before it"
            raise OutputError(
                f"the checkpoint of step {step} cannot be written to {path.parent}, got: {error}; {last}; make room, "
                "and go on with --resume (resume=True)"
            ) from error
        for before in older.values():
            if before != path:
                (before / STATE).unlink(missing_ok=True)

    def newest(self) -> tuple[int, dict[str, Tensor]] | None:
        """The step and the state of the newest checkpoint that can be gone on from; None where there is none.

        Raises:
            CheckpointError: Its state cannot be read.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load as read

        found = {step: path for step, path in checkpoints(self.folder).items() if (path / STATE).is_file()}
        if not found:
            return None
        path = found[max(found)] / STATE
        try:
            return max(found), read(path.read_bytes())
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} must be the state of a run, got: {error}; begin again") from error

    def take(self, model: Any, step: int) -> None:
        """Puts a checkpoint's weights into a model."""
        from safetensors.torch import load_file

        model.load_state_dict(load_file(checkpoints(self.folder)[step] / "model.safetensors"))
