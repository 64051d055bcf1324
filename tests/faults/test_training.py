"""Training under fire: killed at random moments, also while it saves; on a full disk; with a loss that is no number."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pellucid.base.errors import CheckpointError
from pellucid.measurement import Measurement
from pellucid.train import train

KILLS = 20

RECIPE = {
    "steps": 60,
    "batch_size": 8,
    "model": {"n_layers": 2, "d_model": 16, "d_vocab": 12, "n_ctx": 16, "attention": {"n_heads": 2, "d_head": 8}},
    "data": {"kind": "PeriodicSequences", "d_vocab": 12, "length": 16, "shortest": 3, "longest": 7, "noise": 0.1},
    "optimiser": {"lr": 5e-3, "weight_decay": 0.1},
    "schedule": {"warmup": 5},
    "probes": {"every": 20, "batch": 4, "held_out": 8},
    "checkpoints": {"every": 4},
}

KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from pellucid.train.run import train
from pellucid.train.loop import Training
import accelerate, plotly.express, safetensors.torch, scipy.stats, torch._dynamo, torch.utils.tensorboard

folder, recipe, kills, lasts = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
torch.set_num_threads(1)

def work(begun=None):
    advance = Training.advance
    def first(self):
        Training.advance = advance
        os.write(begun, b"!")
        advance(self)
    if begun is not None:
        Training.advance = first
    since = time.monotonic()
    train(recipe, out=folder, resume=(folder / "recipe.toml").exists(), device="cpu", shown=False)
    return time.monotonic() - since

def until(seen, limit=10):
    end = time.monotonic() + limit
    while time.monotonic() < end and not seen():
        pass

def saving():
    return any(name.startswith(".step") for name in os.listdir(folder / "checkpoints"))

moments = random.Random(1)
for i in range(kills):
    begun, tell = os.pipe()
    child = os.fork()
    if child == 0:
        work(tell)
        os._exit(0)
    os.close(tell)
    if i == kills - 1:
        until((folder / "report.html").exists, 60)
    elif i % 5 == 1:
        time.sleep(moments.uniform(0, lasts / 10))
    else:
        os.read(begun, 1)
        if i % 2:
            until(saving)
        time.sleep(moments.uniform(0, lasts / (8 if i % 2 else 2) / kills))
    os.kill(child, signal.SIGKILL)
    end = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("killed" if end == -signal.SIGKILL else "ended", len(list(folder.glob("checkpoints/.step*"))), flush=True)
print(work())
"""


def run(folder, *, kills=0, lasts=0.0):
    """How each child ended, how many half-written checkpoints it left; and how many seconds the rest took."""
    command = [sys.executable, "-c", KILLED, str(folder), json.dumps(RECIPE), str(kills), str(lasts)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *ends, took = done.stdout.splitlines()
    return [(end, int(halves)) for end, halves in map(str.split, ends)], float(took)


def kept(folder):
    """Every tensor of every file, and all numbers."""
    found = {str(path.relative_to(folder)): load_file(path) for path in sorted(Path(folder).rglob("*.safetensors"))}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = {name: torch.tensor([line[name] for line in lines]) for name in ("step", "loss", "lr", "tokens")}
    probes = {path.stem: Measurement.load(path).values for path in (folder / "probes").glob("*.nc")}
    return found | {"probes": {name: torch.from_numpy(values) for name, values in probes.items()}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run in one go, and how many seconds it took."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(folder)[1]


def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit_as_if_it_never_was(tmp_path, whole):
    folder, took = whole
    ends, _ = run(tmp_path / "killed", kills=KILLS, lasts=took)
    assert len(ends) == KILLS and {end for end, _ in ends} == {"killed"}
    assert sum(halves for _, halves in ends) > 0, "some were killed while they saved"
    expected, killed = kept(folder), kept(tmp_path / "killed")
    assert killed.keys() == expected.keys()
    for name, tensors in expected.items():
        assert tensors and killed[name].keys() == tensors.keys(), name
        for key, x in tensors.items():
            assert torch.equal(killed[name][key].nan_to_num(7), x.nan_to_num(7)), (name, key)
    left = {path.name for path in (tmp_path / "killed").rglob(".*")}
    assert not left, "nothing half-written is left in the end"


FULL = """
import json, resource, signal, sys
from pellucid.base.errors import PellucidError
from pellucid.train import train
from pellucid.train.checkpoints import Keeper

folder, recipe = sys.argv[1], json.loads(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit then fails as on a full disk
keep, last = Keeper.keep, int(sys.argv[3])

def filling(self, model, step, state):
    if step > last:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    keep(self, model, step, state)

Keeper.keep = filling
try:
    train(recipe, out=folder, device="cpu", shown=False)
except PellucidError as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_is_one_error_and_the_checkpoint_before_can_be_gone_on_from(tmp_path, whole):
    command = [sys.executable, "-c", FULL, str(tmp_path / "full"), json.dumps(RECIPE), "24"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.startswith("OutputError the checkpoint of step 28 cannot be written"), done.stdout
    assert "File too large" in done.stdout and "the last good one is step 24" in done.stdout
    assert "--resume" in done.stdout and len(done.stdout.splitlines()) == 1
    names = sorted(path.name for path in (tmp_path / "full" / "checkpoints").iterdir())
    assert names[-1] == "step-00000024" and not any(name.startswith(".") for name in names)
    run(tmp_path / "full")
    expected, full = kept(whole[0]), kept(tmp_path / "full")
    assert all(torch.equal(full["model.safetensors"][key], x) for key, x in expected["model.safetensors"].items())
    assert torch.equal(full["metrics"]["loss"], expected["metrics"]["loss"])


@pytest.mark.parametrize("name", ["metrics.jsonl", "training.safetensors"])
def test_damage_is_said_to_be_and_nothing_is_repaired_silently(tmp_path, whole, name):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    path = max(folder.rglob(name))
    damaged = path.read_bytes()[:-100]
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=f"^{path} must .*; begin again$"):
        train(RECIPE, out=folder, resume=True, device="cpu", shown=False)
    assert path.read_bytes() == damaged
