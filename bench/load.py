"""What loading costs, in time beside `transformers` and in memory beside the weights: a folder of GPT-2-small size.

Times are ratios within one run: the contestants take turns, and each one's best time counts. Peaks are taken in a fresh
process each, from its own `VmHWM`, after everything that loading needs was imported.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench._turns import GPT2_SMALL, interleaved
from pellucid import HookedTransformer
from pellucid.pretrained.export import save_pretrained
from pellucid.pretrained.load import Options, load
from pellucid.pretrained.processing import Processing

PEAK = """
import sys, torch
from pathlib import Path
from pellucid.pretrained.load import Options, load
from pellucid.pretrained.processing import Processing

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

def read(folder, processing):
    return load(folder, processing=processing, options=Options(mmap=sys.argv[3] == "mmap")).model

processing = Processing() if sys.argv[4] == "processed" else Processing.none()
read(sys.argv[1], processing)
before = peak()
model = read(sys.argv[2], processing)
held = {p.data_ptr(): p.numel() * p.itemsize for p in model.parameters()}
print((peak() - before) / sum(held.values()))
"""


def times(folder: Path) -> None:
    """Prints how long each way of loading takes."""
    plain = Processing.none()
    contestants: dict[str, Callable[[], object]] = {
        "mapped": lambda: load(folder, processing=plain, options=Options(mmap=True)),
        "read": lambda: load(folder, processing=plain),
        "processed": lambda: load(folder),
    }
    contestants |= of_transformers(folder)
    for run in contestants.values():
        run()
    best = interleaved(contestants, rounds=10)
    print("  " + ", ".join(f"{name} {1e3 * t:.0f} ms" for name, t in best.items()))
    print(f"  mapped, unprocessed          {1e3 * best['mapped']:.0f} ms  (at most 60)")
    if "transformers read" in best:
        print(f"  read / theirs read           {best['read'] / best['transformers read']:.2f}   (at most 1)")
        print(f"  mapped / theirs as it comes  {best['mapped'] / best['transformers']:.2f}   (theirs is mapped too)")
        print(
            f"  read / theirs as it comes    {best['read'] / best['transformers']:.2f}   (theirs has read nothing yet)"
        )


def of_transformers(folder: Path) -> dict[str, Callable[[], object]]:
    """Their loading: as it comes, which maps the file since version 5, and with the weights read."""
    try:
        from transformers import AutoModelForCausalLM
        from transformers.utils.logging import disable_progress_bar
    except ImportError:
        print("  transformers is not installed, so that nothing can be compared with it")
        return {}
    disable_progress_bar()
    return {
        "transformers": lambda: AutoModelForCausalLM.from_pretrained(folder),
        "transformers read": lambda: AutoModelForCausalLM.from_pretrained(folder, disable_mmap=True),
    }


def peaks(folder: Path, small: Path) -> None:
    """Prints the memory that each way of loading takes at most, beside the weights as held."""
    for way in ("read", "mmap"):
        for done in ("plain", "processed"):
            command = [sys.executable, "-c", PEAK, small, folder, way, done]
            ratio = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"  peak / weights, {way:4} {done:10} {ratio:.2f}   (at most 1.15)")


def main() -> None:
    """Makes the folders in a temporary place and measures."""
    with tempfile.TemporaryDirectory() as place:
        folder, small = Path(place) / "large", Path(place) / "small"
        save_pretrained(HookedTransformer(GPT2_SMALL, seed=0), folder, family="gpt2")
        tiny = GPT2_SMALL.change(n_layers=1, d_vocab=100, n_ctx=16)
        save_pretrained(HookedTransformer(tiny, seed=0), small, family="gpt2")
        size = (folder / "model.safetensors").stat().st_size
        print(f"GPT-2-small size, float32, a file of {size / 1e6:.0f} MB")
        times(folder)
        if Path("/proc/self/status").exists():
            peaks(folder, small)


if __name__ == "__main__":
    main()
