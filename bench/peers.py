"""Import, loading and forward beside `transformers`, and TransformerLens 2.18 where PELLUCID_PEER is a Python with it.

Each library works in a process of its own, on the same random weights of GPT-2-small size, and they take turns; the
best of each counts. TransformerLens knows models by hub names alone: it finds the folder as the `gpt2` of a cache.
"""

import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from bench._program import Program
from bench._turns import GPT2_SMALL
from pellucid import HookedTransformer
from pellucid.pretrained.export import save_pretrained

ROUNDS = 4
SHAPES = ((1, 17), (8, 128))
"""Prompts and tokens of the forward passes."""


def cached(place: Path) -> Path:
    """A folder with random weights and a tokenizer of bytes, laid out as a hub's cache has `gpt2`."""
    repository = place / "models--gpt2"
    folder = repository / "snapshots" / ("0" * 40)
    save_pretrained(HookedTransformer(GPT2_SMALL, seed=0), folder, family="gpt2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_ctx": GPT2_SMALL.n_ctx}))  # TransformerLens reads it
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: i for i, name in enumerate([*letters, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {f"{name}_token": "<|endoftext|>" for name in ("bos", "eos", "unk")}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2TokenizerFast", **special}))
    return folder


class Contestant(Program):
    """A library in a fresh process."""

    def __init__(self, python: str, library: str, folder: Path) -> None:
        cache = {"HF_HUB_CACHE": str(folder.parents[2]), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        super().__init__(python, "_contestant.py", library, str(folder), **cache)
        self.imported: float = self.answer()["imported"]


@contextmanager
def contestants(pythons: dict[str, str], folder: Path) -> Iterator[dict[str, Contestant]]:
    """One of each library."""
    found: dict[str, Contestant] = {}
    try:
        for library, python in pythons.items():
            found[library] = Contestant(python, library, folder)
        yield found
    finally:
        for contestant in found.values():
            contestant.end()


def starts(pythons: dict[str, str], folder: Path) -> None:
    """Prints import and loading, each turn in fresh processes."""
    seconds: dict[tuple[str, str], list[float]] = {}
    memory: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for way in ("plain", "processed"):
            for library, python in pythons.items():
                if library == "transformers" and way == "processed":
                    continue
                with contestants({library: python}, folder) as only:
                    seconds.setdefault(("import", library), []).append(only[library].imported)
                    done = only[library].ask(load=way)
                seconds.setdefault((way, library), []).append(done["seconds"])
                memory.setdefault((way, library), []).append(done["more"] / 1e6)
    for what, told in (("import", "import"), ("plain", "load, weights read"), ("processed", "load, processed")):
        best = {library: min(times) for (name, library), times in seconds.items() if name == what}
        print(f"  {told:22} " + _beside(best))
    for way in ("plain", "processed"):
        best = {library: min(sizes) for (name, library), sizes in memory.items() if name == way}
        print(f"  {'peak of load, ' + way:22} " + ", ".join(f"{name} {size:.0f} MB" for name, size in best.items()))


def forwards(pythons: dict[str, str], folder: Path) -> None:
    """Prints forward passes, in turns; all must predict the same token."""
    drawn = random.Random(0)
    with contestants(pythons, folder) as running:
        for contestant in running.values():
            contestant.ask(load="plain")
        for batch, pos in SHAPES:
            tokens = [[drawn.randrange(GPT2_SMALL.d_vocab) for _ in range(pos)] for _ in range(batch)]
            answers = [{name: one.ask(tokens=tokens) for name, one in running.items()} for _ in range(30 // batch + 6)]
            tops = {answer["top"] for turn in answers for answer in turn.values()}
            if len(tops) > 1:
                raise SystemExit(f"all libraries must predict the same token, got {tops}: they do not run one model")
            best = {name: min(turn[name]["seconds"] for turn in answers[1:]) for name in running}
            print(f"  {f'forward, {batch} × {pos}':22} " + _beside(best))


def _beside(best: dict[str, float]) -> str:
    ours = best["pellucid"]
    others = [f"{name} {t:.3f} s ({t / ours:.2f} × ours)" for name, t in best.items() if name != "pellucid"]
    return ", ".join([f"pellucid {ours:.3f} s", *others])


def main() -> None:
    """Prints the table."""
    pythons = {"pellucid": sys.executable, "transformers": sys.executable}
    peer = os.environ.get("PELLUCID_PEER")
    if peer:
        pythons["transformer_lens"] = peer
    else:
        print("PELLUCID_PEER names no Python with transformer-lens 2.18: it is left out")
    with tempfile.TemporaryDirectory() as place:
        folder = cached(Path(place))
        size = (folder / "model.safetensors").stat().st_size / 1e6
        print(f"GPT-2-small size, float32, a file of {size:.0f} MB; best of {ROUNDS} fresh processes, or of turns")
        starts(pythons, folder)
        forwards(pythons, folder)


if __name__ == "__main__":
    main()
