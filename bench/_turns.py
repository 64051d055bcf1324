"""What the measurements share: a model of GPT-2-small size, and contestants that take turns."""

import time
from collections.abc import Callable

from pellucid import AttentionConfig, Config, MLPConfig

GPT2_SMALL = Config(
    n_layers=12,
    d_model=768,
    d_vocab=50257,
    n_ctx=1024,
    attention=AttentionConfig(n_heads=12, d_head=64),
    mlp=MLPConfig(d_mlp=3072),
    tied=True,
)


def interleaved(contestants: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """The best time of each, in seconds, when they take turns."""
    best = dict.fromkeys(contestants, float("inf"))
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best
