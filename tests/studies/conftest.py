import pytest

from pellucid import AttentionConfig, Config, HookedTransformer
from pellucid.text.vocabulary import integer_vocabulary


@pytest.fixture
def make_model():
    """A small random model with BOS, 40 tokens, 2 layers of 3 heads and room for 24 tokens, or as changed."""

    def make(**changes) -> HookedTransformer:
        attention = AttentionConfig(n_heads=3, d_head=4)
        config = {"n_layers": 2, "d_model": 12, "n_ctx": 24, "d_vocab": 40, "init_range": 1.0, **changes}
        vocabulary = integer_vocabulary(config["d_vocab"])
        return HookedTransformer(Config(attention=attention, **config), vocabulary, seed=0, device="cpu")

    return make


@pytest.fixture(scope="session")
def toy() -> HookedTransformer:
    """The bundled model."""
    return HookedTransformer.from_pretrained("toy-induction", device="cpu")
