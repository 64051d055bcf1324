import pytest

from pellucid import AttentionConfig, Config, HookedTransformer
from pellucid.text.vocabulary import integer_vocabulary


@pytest.fixture
def make_model():
    """A small random model: ``make_model(d_vocab=…, bos=…, …)``; ``tokenizer=False`` leaves the tokenizer out."""

    def make(*, d_vocab=40, bos=0, tokenizer=True, n_heads=3, n_kv_heads=None, **changes) -> HookedTransformer:
        attention = AttentionConfig(n_heads=n_heads, d_head=4, n_kv_heads=n_kv_heads)
        config = {"n_layers": 2, "d_model": 12, "n_ctx": 24, "attention": attention, "init_range": 1.0, **changes}
        vocabulary = integer_vocabulary(d_vocab, bos=bos) if tokenizer else None
        return HookedTransformer(Config(d_vocab=d_vocab, **config), vocabulary, seed=0, device="cpu")

    return make


@pytest.fixture(scope="session")
def toy() -> HookedTransformer:
    """The bundled model."""
    return HookedTransformer.from_pretrained("toy-induction", device="cpu")
