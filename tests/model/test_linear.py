"""Large products take oneDNN's way, and say what `F.linear` says."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from pellucid.hooks.run import LiveRun
from pellucid.model import linear as module
from pellucid.model.linear import LEAST, linear
from pellucid.model.mlp import ACTIVATIONS, MLP, MLPConfig

D_IN, D_OUT = 512, 1024


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each product had that took oneDNN's way."""
    asked: list[int] = []
    original = module._quickly

    def counted(x: torch.Tensor, W: torch.Tensor, b: torch.Tensor | None) -> bool:
        taken = original(x, W, b)
        asked.extend([x.numel() // x.shape[-1]] if taken else [])
        return taken

    monkeypatch.setattr(module, "_quickly", counted)
    return asked


def literal(x: torch.Tensor, W: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
    """In float64."""
    return F.linear(x.double(), W.double(), None if b is None else b.double())


ROWS = {
    "rows": torch.randn(200, D_IN),
    "batch": torch.randn(3, 70, D_IN),
    "every second": torch.randn(4, 100, D_IN)[:, ::2],
    "one repeated": torch.randn(1, D_IN).expand(100, D_IN),
    "turned": torch.randn(D_IN, 100).T,
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_equals_the_literal(name: str, bias: bool, turned: bool, quick: list[int]) -> None:
    W = torch.randn(D_IN, D_OUT).T if turned else torch.randn(D_OUT, D_IN)
    b = torch.randn(D_OUT) if bias else None
    with torch.no_grad():
        out = linear(ROWS[name], W, b)
    torch.testing.assert_close(out.double(), literal(ROWS[name], W, b), atol=1e-3, rtol=1e-4)
    assert quick == [ROWS[name].numel() // D_IN]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_functions_are_those_of_torch(name: str, quick: list[int]) -> None:
    x, W, b, act = torch.randn(200, D_IN), torch.randn(D_OUT, D_IN) / 8, torch.randn(D_OUT), ACTIVATIONS[name]
    with torch.no_grad():
        out = linear(x, W, b, act)
        torch.testing.assert_close(out.double(), act(literal(x, W, b)), atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(linear(x[:2], W, b, act), act(F.linear(x[:2], W, b)))
    assert quick == [200]


def test_an_mlp_that_nobody_looks_into_says_the_same(quick: list[int]) -> None:
    for act in ACTIVATIONS:
        for gated in (False, True):
            mlp = MLP(D_IN, MLPConfig(d_mlp=D_OUT, act=act, gated=gated))
            with torch.no_grad():
                for parameter in mlp.parameters():
                    parameter.normal_(std=0.1)
                x = torch.randn(1, 200, D_IN)
                torch.testing.assert_close(mlp(x), mlp(x, run=LiveRun(explicit=True)), atol=1e-3, rtol=1e-4)
    assert len(quick) == 2 * len(ACTIVATIONS) * 5  # of the gated ones three products, of the others two


def test_one_row_against_a_vocabulary(quick: list[int]) -> None:
    x, W = torch.randn(D_IN), torch.randn(LEAST // D_IN, D_IN)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, W).double(), literal(x, W, None), atol=1e-3, rtol=1e-4)
    assert quick == [1]


def test_gradients_are_those_of_the_plain_product(quick: list[int]) -> None:
    x, W = torch.randn(200, D_IN, requires_grad=True), torch.randn(D_OUT, D_IN)
    linear(x, W).sum().backward()
    torch.testing.assert_close(x.grad, W.sum(0).expand(200, D_IN), atol=1e-3, rtol=1e-4)
    assert quick == []


def test_a_bias_alone_has_its_gradient(quick: list[int]) -> None:
    b = torch.randn(D_OUT, requires_grad=True)
    linear(torch.randn(200, D_IN), torch.randn(D_OUT, D_IN), b).sum().backward()
    torch.testing.assert_close(b.grad, torch.full((D_OUT,), 200.0))
    assert quick == []


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own
def test_forward_derivatives_are_those_of_the_plain_product(quick: list[int]) -> None:
    x, W, tangent = torch.randn(200, D_IN), torch.randn(D_OUT, D_IN), torch.randn(200, D_IN)
    _, found = torch.func.jvp(lambda x: linear(x, W), (x,), (tangent,))
    torch.testing.assert_close(found, F.linear(tangent, W), atol=1e-3, rtol=1e-4)
    with torch.no_grad(), forward_ad.dual_level():
        dual = linear(forward_ad.make_dual(x, tangent), W)
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, found)
    assert quick == []


def test_batches_of_torch_func_are_products_of_torch(quick: list[int]) -> None:
    x, W = torch.randn(3, 200, D_IN), torch.randn(D_OUT, D_IN)
    with torch.no_grad():
        found = torch.func.vmap(lambda x: linear(x, W))(x)
    torch.testing.assert_close(found, F.linear(x, W), atol=1e-3, rtol=1e-4)
    assert quick == []


def test_small_wide_and_cast_products_stay_with_torch(quick: list[int]) -> None:
    W = torch.randn(D_OUT, D_IN)
    with torch.no_grad():
        linear(torch.randn(4, D_IN), W)
        linear(torch.randn(200, D_IN, dtype=torch.float64), W.double())
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(torch.randn(200, D_IN), W).dtype == torch.bfloat16
    assert quick == []
