"""How long it takes to begin: importing the library beside importing torch, and the command's help.

Ratios within one run: fresh interpreters take turns, and each one's best time counts.
"""

import subprocess
import sys
from functools import partial

from bench._turns import interleaved


def fresh(*arguments: str) -> None:
    """Runs a fresh interpreter."""
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def main() -> None:
    """Prints the times and the differences."""
    commands = {
        "import torch": ["-c", "import torch"],
        "import pellucid": ["-c", "import pellucid; pellucid.HookedTransformer"],
        "pellucid --help": ["-m", "pellucid", "--help"],
    }
    best = interleaved({name: partial(fresh, *arguments) for name, arguments in commands.items()}, rounds=7)
    print("fresh interpreters, best of 7, taking turns: " + ", ".join(f"{n} {t:.2f} s" for n, t in best.items()))
    difference = best["import pellucid"] - best["import torch"]
    print(f"  pellucid.HookedTransformer − torch  {difference:.2f} s   (at most 0.3 s)")
    print(f"  pellucid --help                     {best['pellucid --help']:.2f} s   (below 1 s)")


if __name__ == "__main__":
    main()
