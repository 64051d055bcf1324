"""Three `detect_head` roles of TransformerLens 2.18 on one sequence; run by its own Python, which lacks Pellucid.

Reads a line of JSON on stdin for each request, and answers with one on stdout: how long they took, and their scores.
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.head_detector import HEAD_NAMES, detect_head


def made(folder):
    config = json.loads(Path(folder, "config.json").read_text())
    model = HookedTransformer(HookedTransformerConfig(**config))
    model.load_state_dict(load_file(f"{folder}/weights.safetensors"), strict=False)
    return model.eval()


@torch.no_grad()
def main():
    model = made(sys.argv[1])
    for line in sys.stdin:
        tokens = torch.tensor([json.loads(line)["tokens"]])
        model.to_tokens = lambda text, tokens=tokens: tokens  # random tokens have no text that means them
        start = time.perf_counter()
        scores = {name: detect_head(model, "", name) for name in HEAD_NAMES}
        seconds = time.perf_counter() - start
        told = {name.removesuffix("_head"): found.tolist() for name, found in scores.items()}
        print(json.dumps({"seconds": seconds, "scores": told}), flush=True)


main()
