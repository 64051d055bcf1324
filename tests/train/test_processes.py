"""Several processes train as one does: the same global batch, the same losses, one folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pellucid.base.errors import ConfigError
from pellucid.pretrained.checkpoints import checkpoints
from pellucid.train import train

RECIPE = {
    "steps": 12,
    "batch_size": 8,
    "model": {"n_layers": 2, "d_model": 16, "d_vocab": 12, "n_ctx": 16, "attention": {"n_heads": 2, "d_head": 8}},
    "data": {"kind": "PeriodicSequences", "d_vocab": 12, "length": 16, "shortest": 3, "longest": 7},
    "optimiser": {"lr": 5e-3, "weight_decay": 0.1, "clip": 0.5},
    "schedule": {"warmup": 2},
    "probes": {"batch": 2, "held_out": 4},
    "checkpoints": {"every": 5},
    "log": [],
}

WORK = """
import json, sys
import torch
from pellucid.base.errors import PellucidError
from pellucid.train import train
from pellucid.train.loop import Training

torch.set_num_threads(1)
advance = Training.advance

def stopping(self):
    if self.step == 5:
        sys.exit()
    advance(self)

if "stop" in sys.argv:
    Training.advance = stopping
try:
    run = train(json.loads(sys.argv[1]), out=sys.argv[2], device="cpu", resume="resume" in sys.argv)
except PellucidError as error:
    print(error)
else:
    sys.stdout.write("losses " + json.dumps(run.history.values.tolist()) + chr(10))  # in one piece
"""


def by_two(tmp_path, recipe, *more):
    """What two processes print that train together, as `torchrun` starts them."""
    script = tmp_path / "work.py"
    script.write_text(WORK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    command += [json.dumps(recipe), str(tmp_path / "two"), *more]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_processes_have_the_losses_of_one_also_when_they_were_stopped(tmp_path):
    by_two(tmp_path, RECIPE | {"parts": 2}, "stop")  # after step 4, which is measured and kept
    assert max(checkpoints(tmp_path / "two")) == 5 and not (tmp_path / "two" / "model.safetensors").exists()
    printed = by_two(tmp_path, RECIPE | {"parts": 2}, "resume")
    ours = [json.loads(line.removeprefix("losses ")) for line in printed.splitlines() if line.startswith("losses")]
    assert len(ours) == 2, "each process has the whole history"
    one = train(RECIPE | {"parts": 1}, out=tmp_path / "one", device="cpu")
    for losses in ours:
        torch.testing.assert_close(
            torch.tensor(losses, dtype=torch.float64), torch.from_numpy(one.history.values), rtol=0, atol=1e-5
        )
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for name, x in weights[0].items():
        if name.endswith(".b_K"):  # softmax does not see it: its gradient is rounding alone, which Adam makes large
            continue
        torch.testing.assert_close(weights[1][name], x, rtol=0, atol=1e-4)
    assert list(checkpoints(tmp_path / "two")) == list(checkpoints(tmp_path / "one"))
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 13)), "one of them writes"


def test_two_processes_say_once_each_what_is_wrong(tmp_path):
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "recipe.toml").write_text("steps = 1\n")
    printed = by_two(tmp_path, RECIPE)
    assert printed.count("must not hold results already") == 2
    assert [path.name for path in Path(tmp_path / "two").iterdir()] == ["recipe.toml"]


def test_a_batch_must_be_a_multiple_of_the_parts():
    with pytest.raises(ConfigError, match="batch_size must be a multiple of parts × processes = 3 × 1, got 8"):
        train(RECIPE | {"parts": 3}, device="cpu")
