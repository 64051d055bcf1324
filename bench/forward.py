"""How much hook points cost: our forward pass against a plain model, and a full cache against the explicit forward.

Ratios within one run: the contestants take turns, and each one's best time counts.
"""

import time
from collections.abc import Callable

import torch

from pellucid import AttentionConfig, Config, HookedTransformer, MLPConfig
from tests.reference.plain import plain_forward


def interleaved(contestants: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """The best time of each, in seconds, when they take turns."""
    best = dict.fromkeys(contestants, float("inf"))
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def main() -> None:
    """Prints the ratios."""
    config = Config(
        n_layers=12,
        d_model=768,
        d_vocab=50257,
        n_ctx=1024,
        attention=AttentionConfig(n_heads=12, d_head=64),
        mlp=MLPConfig(d_mlp=3072),
        tied=True,
    )
    model = HookedTransformer(config, seed=0)
    explicit = model.live_run(explicit=True)
    print(f"GPT-2-small size, float32, {torch.get_num_threads()} threads; best of each, taking turns")
    with torch.no_grad():
        for batch, pos, rounds in ((1, 17, 60), (8, 128, 8)):
            tokens = torch.randint(0, config.d_vocab, (batch, pos), generator=torch.Generator().manual_seed(0))
            contestants = {
                "plain": lambda tokens=tokens: plain_forward(model, tokens),
                "ours": lambda tokens=tokens: model(tokens),
                "explicit": lambda tokens=tokens: model(tokens, run=explicit),
                "cached": lambda tokens=tokens: model.run_with_cache(tokens),
            }
            for run in contestants.values():
                run()
            best = interleaved(contestants, rounds=rounds)
            print(f"\n{batch} × {pos} tokens: " + ", ".join(f"{name} {1e3 * t:.1f} ms" for name, t in best.items()))
            print(f"  forward / plain model            {best['ours'] / best['plain']:.3f}   (at most 1.05)")
            print(f"  run_with_cache / explicit forward {best['cached'] / best['explicit']:.3f}   (at most 1.15)")


if __name__ == "__main__":
    main()
