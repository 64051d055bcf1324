"""How long it takes to begin: importing the library beside importing torch, and the command's help.

Ratios within one run: fresh interpreters take turns, and each one's best time counts.
"""

import subprocess
import sys
import time


def best_of(commands: dict[str, list[str]], *, rounds: int = 7) -> dict[str, float]:
    """The best wall time of each command, in seconds, when they take turns."""
    best = dict.fromkeys(commands, float("inf"))
    for _ in range(rounds):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def main() -> None:
    """Prints the times and the differences."""
    best = best_of(
        {
            "import torch": [sys.executable, "-c", "import torch"],
            "import pellucid": [sys.executable, "-c", "import pellucid; pellucid.HookedTransformer"],
            "pellucid --help": [sys.executable, "-m", "pellucid", "--help"],
        }
    )
    print("fresh interpreters, best of 7, taking turns: " + ", ".join(f"{n} {t:.2f} s" for n, t in best.items()))
    difference = best["import pellucid"] - best["import torch"]
    print(f"  pellucid.HookedTransformer − torch  {difference:.2f} s   (at most 0.3 s)")
    print(f"  pellucid --help                     {best['pellucid --help']:.2f} s   (below 1 s)")


if __name__ == "__main__":
    main()
