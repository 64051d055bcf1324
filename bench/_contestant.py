"""One library, put to work by requests on stdin; run by a Python that has it, which may lack Pellucid.

Says first how long importing took, then answers each line of JSON with one on stdout.
"""

import json
import sys
import time
from pathlib import Path

LIBRARY, FOLDER = sys.argv[1:3]
"""Which one, and the folder of the weights; TransformerLens knows them as `gpt2`."""
START = time.perf_counter()
if LIBRARY == "pellucid":
    from pellucid import HookedTransformer
elif LIBRARY == "transformer_lens":
    from transformer_lens import HookedTransformer
else:
    from transformers import GPT2LMHeadModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
IMPORTED = time.perf_counter() - START

import torch  # noqa: E402


def loaded(way: str) -> torch.nn.Module:
    """The model: `processed` as both hooked libraries do by default, or `plain`."""
    if LIBRARY == "transformers":
        return GPT2LMHeadModel.from_pretrained(FOLDER)
    place = "gpt2" if LIBRARY == "transformer_lens" else FOLDER
    if way == "processed":
        return HookedTransformer.from_pretrained(place, device="cpu")
    return HookedTransformer.from_pretrained_no_processing(place, device="cpu")


def memory(what: str) -> int:
    """Of this process, in bytes: what it holds now (`VmRSS`), or the most that it ever held (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


@torch.no_grad()
def main() -> None:
    """Answers until stdin ends."""
    model = None
    print(json.dumps({"imported": IMPORTED}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        before, start = memory("VmRSS"), time.perf_counter()
        if "load" in asked:
            model = loaded(asked["load"])
            model.eval()
            touched = float(sum(p.sum() for p in model.parameters()))  # a mapped weight is not loaded before it is read
            answer = {"touched": touched, "more": memory("VmHWM") - before}
        else:
            assert model is not None
            tokens = torch.tensor(asked["tokens"])
            logits = model(tokens)
            logits = logits if isinstance(logits, torch.Tensor) else logits.logits
            answer = {"top": logits[0, -1].argmax().item()}
        answer["seconds"] = time.perf_counter() - start
        print(json.dumps(answer), flush=True)


main()
