"""`torch.compile(fullgraph=True)` of an unhooked model works and agrees.

In a process of its own: the shape checks of the tests cannot be compiled.
"""

import subprocess
import sys

import pytest

from tests.models import CONFIGS

SCRIPT = """
import sys
import torch
from pellucid.model import linear as products
from tests.models import model_of, tokens_of

products.LEAST = 1  # every product counts as a large one
backend, kinds = sys.argv[1], sys.argv[2:]
for kind in kinds:
    model, tokens = model_of(kind), tokens_of(kind)
    expected = model(tokens)
    model.add_hook("z", lambda x, hook: None)
    model(tokens)
    model.reset_hooks()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    found = compiled(tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    found.sum().backward()
    gradient = model.blocks[1].attn.W_Q.grad.clone()
    model.zero_grad()
    expected.sum().backward()
    torch.testing.assert_close(gradient, model.blocks[1].attn.W_Q.grad, rtol=0, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens[:, :5]), model(tokens[:, :5]), rtol=0, atol=1e-5)
    torch.compiler.reset()
    print("agrees:", kind)
"""


def compiled(repository, backend, *kinds):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, backend, *kinds], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [f"agrees: {kind}" for kind in kinds]


def test_an_unhooked_model_is_one_graph(repository):
    compiled(repository, "eager", "gpt2", "llama")


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend, kinds", [("aot_eager", list(CONFIGS)), pytest.param("inductor", ["llama"], marks=pytest.mark.long)]
)
def test_a_model_of_any_kind_compiles(repository, backend, kinds):
    compiled(repository, backend, *kinds)
