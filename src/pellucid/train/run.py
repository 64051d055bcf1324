"""A recipe becomes a model, and a folder that tells how it came about.

In: a recipe. Out: a `Run`. With a folder, everything that is needed to go on is written there on the way, so that a run
which was killed at any moment ends, once it is resumed, as if it had not been.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch

from pellucid.base.errors import ConfigError, OutputError, TrainingError
from pellucid.base.progress import Advance, progress
from pellucid.base.record import VERSION, Record
from pellucid.base.seeds import generator
from pellucid.base.tensors import get_device
from pellucid.measurement import Measurement
from pellucid.pretrained.checkpoints import checkpoints
from pellucid.pretrained.export import save_pretrained
from pellucid.train.checkpoints import Keeper
from pellucid.train.folder import PROBES, REPORT, check_data, check_vacant, prepare
from pellucid.train.log import Log, check_installed
from pellucid.train.loop import Training, accelerator
from pellucid.train.page import training_page
from pellucid.train.probes import SEED, Probed, probe
from pellucid.train.recipe import Recipe, read_recipe, recipe_of
from pellucid.train.sequences import Batch
from pellucid.train.stream import Drawn, Shuffled, Stream, next_tokens
from pellucid.train.text import Text

FLUSH = 10
"""Steps between two looks at the losses; on a GPU each look waits."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that has ended."""

    model: Any
    """The trained model."""
    recipe: Recipe
    history: Measurement
    """The loss of each step, ``[step]``, nats, with the variables ``lr`` and ``tokens``."""
    probes: dict[str, Measurement]
    """What was measured on the way: ``[step …]``; see `pellucid.train.probes.probe`. Of several processes, the first
    one has it."""
    checkpoints: dict[int, Path]
    """The folders of the models that were kept, by step; none without a folder."""
    folder: Path | None


def train(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: torch.device | str | None = None,
    shown: bool | None = None,
    report: bool = True,
) -> Run:
    """Trains a model as a recipe says.

    Args:
        recipe: A recipe, a TOML file, the name of a bundled recipe, or a table.
        out: The folder for the model, its checkpoints, `metrics.jsonl`, the probes, and a page; None: nothing is
            written, and no checkpoints are kept.
        resume: Go on with the run that lies in `out`, which must be of the same recipe; if it has ended, read it.
        overwrite: Replace what lies there.
        device: Where; None: the best one that this process has.
        shown: Whether the progress is shown, on stderr; None: on a terminal or in a notebook.
        report: Whether `out` gets a page.

    Returns:
        The run.

    Raises:
        ConfigError: The recipe cannot be.
        OutputError: `out` holds results, or cannot be written.
        TrainingError: The loss or a weight is no finite number any more; the checkpoints before are as they were.
        MissingExtraError: `accelerate` is not installed.

    Example:
        >>> recipe = read_recipe("toy-induction", ["steps=3", "batch_size=4", "schedule.warmup=0"])
        >>> run = train(recipe)
        >>> run.history.shape, run.probes["head_roles"].dims
        ((3,), ('step', 'prompt', 'role', 'layer', 'head'))
    """
    if isinstance(recipe, str | Path):
        recipe = read_recipe(recipe)
    elif not isinstance(recipe, Recipe):
        recipe = recipe_of(recipe)
    if out is None and resume:
        raise ConfigError("resume needs the folder of the run; give out=")
    folder = None if out is None else Path(out)
    found = accelerator(device or get_device(), recipe.precision)
    if folder is not None:
        check_vacant(folder, recipe, resume=resume, overwrite=overwrite)
    found.wait_for_everyone()  # before anybody writes there
    alone = found.num_processes == 1
    begun = _begun(recipe, folder, device or (get_device() if alone else found.device))
    if folder is not None and resume:
        check_data(folder, begun.data)
    if folder is not None and found.is_main_process:
        prepare(folder, recipe, _made_with(begun), overwrite=overwrite and not resume)
    found.wait_for_everyone()
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return _trained(begun, shown, report)


class _Begun(NamedTuple):
    """A run before its first step."""

    recipe: Recipe
    folder: Path | None
    model: Any
    stream: Stream
    held_out: Batch | None
    bytes_per_token: float | None
    """Of the held-out text."""
    data: dict[str, Any]
    """What a record tells of it."""
    record: Record
    training: Training


def _begun(recipe: Recipe, folder: Path | None, device: torch.device | str) -> _Begun:
    """Everything that can fail for a reason that lies in the recipe is done here, before anything is written."""
    if folder is not None:
        check_installed(recipe.log)
    text = recipe.data if isinstance(recipe.data, Text) else None
    model = recipe.model.made(seed=recipe.seed, text=text, device=device)
    recipe.check(model.config)
    probe(model, None, recipe.probes, seed=recipe.seed + SEED)
    stream, held_out, told = _opened(recipe, model)
    training = Training(
        model,
        stream,
        steps=recipe.steps,
        optimiser=recipe.optimiser,
        schedule=recipe.schedule,
        parts=recipe.parts,
        precision=recipe.precision,
    )
    record = Record(model=None if folder is None else folder.name, seed=recipe.seed, task="training")
    record = record.add(settings={"recipe": recipe.to_dict(), "data": told})
    if hasattr(model, "record"):
        model.record = record
    bytes_per_token = None
    if told.get("held_out_tokens"):
        bytes_per_token = told["held_out_bytes"] / told["held_out_tokens"]
    return _Begun(recipe, folder, model, stream, held_out, bytes_per_token, told, record, training)


def _opened(recipe: Recipe, model: Any) -> tuple[Stream, Batch | None, dict[str, Any]]:
    """The batches, what is held out, and what a record must tell of the data."""
    data, n = recipe.data, recipe.probes.held_out
    if not isinstance(data, Text):
        held_out = data.draw(n, generator(recipe.seed + SEED)) if n else None
        return Drawn(data, batch=recipe.batch_size, seed=recipe.seed), held_out, {}
    if model.tokenizer is None:
        raise ConfigError("text needs a tokenizer, and this model has none; give model.tokenizer")
    last, room = max(model.tokenizer.get_vocab().values()), min(model.config.d_vocab, model.config.vocab_out)
    if last >= room:
        raise ConfigError(
            f"the tokenizer's ids must lie in the model's vocabulary, 0..{room - 1}, got {last}; raise model.d_vocab"
        )
    if not data.bos:
        model.tokenizer.policy = replace(model.tokenizer.policy, prepend_bos=False)
    packed = data.packed(model.tokenizer)
    rows = torch.from_numpy(packed.held_out[:n].astype("int64"))
    told = {
        "hash": packed.hash,
        "documents": packed.n_documents,
        "tokens": packed.n_tokens,
        "bytes": packed.n_bytes,
        "held_out_documents": packed.n_held_out_documents,
        "held_out_tokens": packed.n_held_out_tokens,
        "held_out_bytes": packed.n_held_out_bytes,
        "rows": len(packed.train),
        "held_out_rows": len(packed.held_out),
        "bos": packed.bos,
    }
    held_out = next_tokens(rows) if len(rows) else None
    stream = Shuffled(packed.train, batch=recipe.batch_size, seed=recipe.seed, copies=data.copies, steps=recipe.steps)
    return stream, held_out, told


def _trained(begun: _Begun, shown: bool | None, report: bool) -> Run:
    """Takes the steps."""
    recipe, folder, model, training = begun.recipe, begun.folder, begun.model, begun.training
    is_main = training.is_main
    keeper = None
    if folder is not None:
        keeper = Keeper(folder=folder, tokenizer=getattr(model, "tokenizer", None), record=begun.record)
        _go_on(keeper, training, model)
    start, ours = training.step, folder if is_main else None
    probed = Probed(None if ours is None else ours / PROBES)
    if start:
        probed.take_up(start)
    also = recipe.log if start < recipe.steps else ()
    log = Log(folder, also=also, settings=recipe.to_dict(), step=start, writes=is_main)
    training.accelerator.wait_for_everyone()  # all have read before one writes
    shown = shown if is_main else False
    with log, progress(recipe.steps, "training", done=start, shown=shown) as advance:
        try:
            _walk(begun, keeper if is_main else None, log, probed, advance)
        except TrainingError as error:
            kept = {} if folder is None else checkpoints(folder)
            raise TrainingError(
                f"{error}; the last good checkpoint is {kept[max(kept)]}" if kept else f"{error}"
            ) from error
    history = _history(log, begun.record)
    run = Run(
        model=model,
        recipe=recipe,
        history=history,
        probes=probed.measurements(),
        checkpoints={} if folder is None else checkpoints(folder),
        folder=folder,
    )
    if ours is not None:
        try:
            probed.save()
            tokenizer = getattr(model, "tokenizer", None)
            save_pretrained(model, ours, family="pellucid", tokenizer=tokenizer, record=begun.record)
            if report:
                training_page(run.recipe, run.history, run.probes).save(ours / REPORT)
        except OSError as error:
            raise OutputError(
                f"the end of the run cannot be written to {ours}, got: {error}; make room, and go on with --resume"
            ) from error
    training.accelerator.wait_for_everyone()
    return run


def _walk(begun: _Begun, keeper: Keeper | None, log: Log, probed: Probed, advance: Advance) -> None:
    """From step to step, with a halt wherever there is something to tell, to measure or to keep."""
    recipe, training = begun.recipe, begun.training
    kept = recipe.checkpoints.of(recipe.steps) if begun.folder is not None else frozenset()
    looked = recipe.probes.of(recipe.steps)
    told_until, since = training.step, perf_counter()
    begins = True
    while True:
        step = training.step
        ends = step == recipe.steps
        # Where they halt is the same in all processes; only one of them knows what has been measured.
        halts = step in looked or step in kept
        due = (step in looked and step not in probed.steps, step in kept and not (begins and step))
        if step % FLUSH == 0 or halts or ends:
            told = training.told()
            log.tell(told, seconds=perf_counter() - since)
            if training.is_main:
                if told:
                    advance(step - told_until, f"loss {told[-1].loss:.4f}, {_pace(told, perf_counter() - since)}")
                told_until = step
                if due[0]:
                    _look(begun, log, probed)
                if due[1] and keeper is not None:
                    training.check_weights()
                    probed.save()
                    keeper.keep(begun.model, step, training.state())
            if halts:
                training.accelerator.wait_for_everyone()
            since = perf_counter()
        if ends:
            return
        begins = False
        training.advance()


def _look(begun: _Begun, log: Log, probed: Probed) -> None:
    found = probe(
        begun.model,
        begun.held_out,
        begun.recipe.probes,
        seed=begun.recipe.seed + SEED,
        bytes_per_token=begun.bytes_per_token,
    )
    probed.add(begun.training.step, found)
    numbers = {name: m.item() for name, m in found.items() if m.values.size == 1}
    if "head_roles" in found:
        excess = (found["head_roles"] - found["head_roles_control"]).mean("prompt")
        for role in excess.dataset["role"].values:
            numbers[f"heads/{role}"] = float(excess.sel(role=role).values.max())
    log.tell_probe(begun.training.step, numbers)


def _go_on(keeper: Keeper, training: Training, model: Any) -> None:
    """From the newest checkpoint, where there is one."""
    newest = keeper.newest()
    if newest is not None:
        keeper.take(model, newest[0])
        training.restore(newest[1])


def _history(log: Log, record: Record) -> Measurement:
    return Measurement(
        [one.loss for one in log.steps],
        ("step",),
        unit="nats",
        record=record,
        name="training loss",
        coords={"step": [one.step for one in log.steps]},
        variables={
            "lr": ("step", [one.lr for one in log.steps]),
            "tokens": ("step", [one.tokens for one in log.steps]),
        },
    )


def _pace(told: list[Any], seconds: float) -> str:
    pace = sum(one.tokens for one in told) / max(seconds, 1e-9)
    return f"{pace / 1000:,.0f}k tokens/s" if pace >= 10_000 else f"{pace:,.0f} tokens/s"


def _made_with(begun: _Begun) -> dict[str, Any]:
    """What the last digits of a run depend on, beside its recipe."""
    return {
        "pellucid": VERSION,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processes": begun.training.accelerator.num_processes,
        "device": str(begun.training.accelerator.device),
        "data": begun.data,
    }
