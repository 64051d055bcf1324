"""The training of TransformerLens, by its own `train`; run by its own Python, which lacks Pellucid.

Says the loss of the first batch, then answers each line of JSON on stdin with one on stdout: seconds of one pass
through all rows.
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.train import HookedTransformerTrainConfig, train


def main():
    folder = Path(sys.argv[1])
    asked = json.loads((folder / "config.json").read_text())
    torch.set_num_threads(asked["threads"])
    held = load_file(folder / "weights.safetensors")
    rows = held.pop("rows")
    model = HookedTransformer(HookedTransformerConfig(**asked["model"]))
    model.load_state_dict(held, strict=False)
    config = HookedTransformerTrainConfig(num_epochs=1, device="cpu", print_every=None, **asked["training"])
    with torch.no_grad():
        loss = model(rows[: config.batch_size], return_type="loss").item()
    print(json.dumps({"loss": loss}), flush=True)
    dataset = [{"tokens": row} for row in rows]
    for _ in sys.stdin:
        start = time.perf_counter()
        train(model, config, dataset)
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


main()
