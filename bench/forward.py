"""How much hook points cost: our forward pass against a plain model, and a full cache against the explicit forward.

Ratios within one run: the contestants take turns, and each one's best time counts.
"""

import torch

from bench._turns import GPT2_SMALL, interleaved
from pellucid import HookedTransformer
from tests.reference.plain import plain_forward


def main() -> None:
    """Prints the ratios."""
    model = HookedTransformer(GPT2_SMALL, seed=0)
    explicit = model.live_run(explicit=True)
    print(f"GPT-2-small size, float32, {torch.get_num_threads()} threads; best of each, taking turns")
    with torch.no_grad():
        for batch, pos, rounds in ((1, 17, 60), (8, 128, 8)):
            tokens = torch.randint(0, GPT2_SMALL.d_vocab, (batch, pos), generator=torch.Generator().manual_seed(0))
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
