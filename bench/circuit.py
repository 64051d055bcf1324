"""What the circuit of one pair of heads costs at GPT-2-small size: time, and memory at its peak.

In a fresh process, whose own `VmHWM` is the peak, the model and all imports included. Random weights cost what trained
ones do.
"""

import subprocess
import sys

from bench._turns import GPT2_SMALL

CIRCUIT = """
import time, torch
from pathlib import Path
from bench._turns import GPT2_SMALL
from pellucid import HookedTransformer
from pellucid.analysis.weights import two_head_matches

model = HookedTransformer(GPT2_SMALL, seed=0)
start = time.perf_counter()
two_head_matches(model, ["4.11"], induction=["5.1"])
seconds = time.perf_counter() - start
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
print(seconds, next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), "unknown"), torch.get_num_threads())
"""


def main() -> None:
    """Prints the time and the peak."""
    done = subprocess.run([sys.executable, "-c", CIRCUIT], check=True, capture_output=True, text=True)
    seconds, peak, threads = done.stdout.split()
    print(
        f"GPT-2-small size, float32: the circuit of 4.11 and 5.1 over all {GPT2_SMALL.d_vocab} tokens, both directions"
    )
    print(f"  time  {float(seconds):.1f} s   (at most 60)")
    print(f"  peak  {peak if peak == 'unknown' else f'{int(peak) / 1e9:.2f} GB'}   (at most 1.5)")


if __name__ == "__main__":
    main()
