"""What the circuit of one pair of heads costs at GPT-2-small size: time, and memory at its peak.

In a fresh process, whose own `VmHWM` is the peak, the model and all imports included. Random weights cost what trained
ones do.
"""

import subprocess
import sys

from bench._turns import GPT2_SMALL

CIRCUIT = """
import time
from pathlib import Path
import torch
from bench._turns import GPT2_SMALL
from pellucid import HookedTransformer
from pellucid.analysis.weights import two_head_matches

model = HookedTransformer(GPT2_SMALL, seed=0)
start = time.perf_counter()
two_head_matches(model, ["4.11"], induction=["5.1"])
seconds = time.perf_counter() - start
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
peak = next((f"{1024 * int(line.split()[1]) / 1e9:.2f}" for line in lines if line.startswith("VmHWM")), "unknown")
print(torch.get_num_threads(), f"{seconds:.1f}", peak)
"""


def main() -> None:
    """Prints the time and the peak."""
    done = subprocess.run([sys.executable, "-c", CIRCUIT], check=True, capture_output=True, text=True)
    threads, seconds, peak = done.stdout.split()
    print(f"GPT-2-small size, float32, {threads} threads: the circuit of 4.11 and 5.1, {GPT2_SMALL.d_vocab} tokens")
    print(f"  time  {seconds} s   (at most 60)")
    print(f"  peak  {peak} GB   (at most 1.5)")


if __name__ == "__main__":
    main()
