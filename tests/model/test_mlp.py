"""The MLP: its activations are what checkpoints mean by their names."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid import MLPConfig
from pellucid.base.errors import ConfigError
from pellucid.model.mlp import ACTIVATIONS, MLP
from tests.reference.literal import ACTIVATIONS as LITERAL


@given(st.sampled_from(sorted(ACTIVATIONS)), st.floats(-20, 20))
def test_activations_are_what_their_formulas_say(name, x):
    formula = LITERAL["gelu_new" if name in ("gelu_fast", "gelu_pytorch_tanh") else name]
    x = torch.tensor([x], dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name](x), formula(x), rtol=1e-9, atol=1e-12)


def test_neurons_are_what_the_output_matrix_reads():
    mlp = MLP(10, MLPConfig(d_mlp=14))
    for parameter in mlp.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 3, 10)
    torch.testing.assert_close(mlp.neurons(x) @ mlp.W_out + mlp.b_out, mlp(x))


@pytest.mark.parametrize(
    "config, names",
    [
        (MLPConfig(d_mlp=14), ["W_in", "W_out", "b_in", "b_out"]),
        (MLPConfig(d_mlp=14, bias=False), ["W_in", "W_out"]),
        (MLPConfig(d_mlp=14, gated=True), ["W_gate", "W_in", "W_out", "b_gate", "b_in", "b_out"]),
        (MLPConfig(d_mlp=14, gated=True, bias=False), ["W_gate", "W_in", "W_out"]),
    ],
)
def test_an_mlp_has_the_parameters_that_its_configuration_says(config, names):
    assert sorted(name for name, _ in MLP(10, config).named_parameters()) == sorted(names)


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"d_mlp": 0}, "d_mlp must be 1 or more, got 0; leave the MLP out with mlp=None"),
        ({"d_mlp": 4, "act": "gelu_ne"}, "act must be a known activation, got 'gelu_ne'; nearest: gelu_new"),
    ],
)
def test_an_mlp_that_cannot_be_is_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        MLPConfig(**fields)
