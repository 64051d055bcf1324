import tomllib
from dataclasses import replace

import pytest

from pellucid import AttentionConfig, Config, LayerNorm, Learned, MLPConfig, RMSNorm, Rotary
from pellucid.base.errors import ConfigError
from pellucid.text.vocabulary import integer_vocabulary
from pellucid.train import (
    Checkpoints,
    MostFrequentToken,
    Optimiser,
    PeriodicSequences,
    Probes,
    Recipe,
    Schedule,
    Start,
    Text,
    TokenSet,
    TranslatedSequences,
    bundled_recipes,
    read_recipe,
    recipe_of,
)
from pellucid.train.recipe import toml
from tests.train.recipes import TINY, tiny

CONFIG = Config(n_layers=1, d_model=8, d_vocab=12, n_ctx=32, attention=AttentionConfig(n_heads=2, d_head=4))
MLP = MLPConfig(d_mlp=14, act="silu", gated=True, bias=False)
LLAMA = replace(CONFIG, mlp=MLP, norm=RMSNorm(eps=1e-6), positions=Rotary(dim=2, base=500.0), tied=True)
BARE = replace(CONFIG, norm=None, positions=None, residual=False, init_range=0.1, d_vocab_out=13)
PERIODIC = PeriodicSequences(d_vocab=12, length=16, shortest=3, longest=7, offset=2, noise=0.25)


def whole(**changes) -> Recipe:
    """A recipe of values."""
    return Recipe(**{"steps": 200, "batch_size": 4, "model": Start(config=CONFIG), "data": PERIODIC} | changes)


@pytest.mark.parametrize(
    "recipe",
    [
        whole(),
        whole(model=Start(config=LLAMA, take={"embed": "gpt2", "blocks.0": 'a "quoted" näme'}, frozen=("embed",))),
        whole(model=Start(config=BARE), probes=Probes(seq_len=5, every=3), checkpoints=Checkpoints(log_spaced=False)),
        whole(model=Start(config=replace(CONFIG, norm=LayerNorm(affine=False), positions=Learned()))),
        whole(model=Start(pretrained="gpt2", frozen=("blocks.0.attn",)), data=Text(source=("a", "b"), length=64)),
        whole(model=Start(config=CONFIG, tokenizer="gpt2"), data=Text(source="none at all", length=8, column="text")),
        whole(
            model=Start(config=replace(CONFIG, architecture="encoder-decoder")),
            data=TranslatedSequences(d_vocab=12, length=6, blanks=3),
        ),
        whole(data=MostFrequentToken(d_vocab=12, length=9, distinct=3), log=(), seed=7, parts=2, precision="bfloat16"),
        whole(
            data=TokenSet(d_vocab=12, length=9, distinct=3),
            optimiser=Optimiser(clip=None, betas=(0.5, 0.6), decayed="positions"),
        ),
        whole(schedule=Schedule(shape="cosine", warmup=3, floor=0.1)),
    ],
)
def test_what_is_printed_is_the_same_recipe(recipe):
    printed = recipe.to_toml()
    assert recipe_of(tomllib.loads(printed)) == recipe
    assert recipe_of(recipe.to_dict()) == recipe


def test_a_file_and_changes_make_a_recipe(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(tiny().to_toml())
    assert read_recipe(path) == tiny()
    changed = read_recipe(str(path), ["steps=50", "optimiser.lr = 1e-2"])
    assert changed == replace(tiny(), steps=50, optimiser=Optimiser(lr=1e-2))
    assert read_recipe(path, ["schedule.shape=cosine"]).schedule.shape == "cosine", "text needs no quotes"
    assert read_recipe(path, ["model.attention={n_heads=4, d_head=8}"]).model.config.attention.n_heads == 4


def test_bundled_recipes_have_names():
    assert "toy-induction" in bundled_recipes()
    for name in bundled_recipes():
        assert read_recipe(name, ["seed=3"]).seed == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("stepz=3", "recipe has no field 'stepz'; nearest: steps"),
        ("steps=0", "steps must be 1 or more, got 0"),
        ("steps=1.5", "steps must be a whole number, got 1.5"),
        ("batch_size=many", "batch_size must be a whole number, got 'many'"),
        ("seed=-1", r"seed must lie in 0..2\*\*31 − 1, got -1"),
        ("parts=0", "parts must be 1 or more"),
        ("precision=float8", "precision must be one of float32, bfloat16, got 'float8'"),
        ("model.n_layer=3", "model has no field 'n_layer'; nearest: n_layers"),
        ("model.d_model=true", "model.d_model must be a whole number, got True"),
        ("model.attention.n_heads=0", "model.attention: n_heads must be .* got 0"),
        ("model.mlp=7", "model.mlp must be a table of fields, got 7"),
        ("model.norm=BatchNorm", "model.norm must be of kind LayerNorm, RMSNorm, got 'BatchNorm'"),
        ("model.positions=Sines", "model.positions must be of kind Learned, Rotary, Shortformer, got 'Sines'"),
        ("model.architecture=encoder", "is for model.architecture='decoder', got 'encoder'"),
        ("model.architecture=deocder", "architecture must be .* got 'deocder'"),
        ("model.pretrained=gpt2", "configuration .* or pretrained, got both"),
        ("model.frozen=embed", "model.frozen must be a list, got 'embed'"),
        ("model.take=gpt2", "model.take must be a table, got 'gpt2'"),
        ("data.kind=Periodic", "data must be of kind PeriodicSequences, .* got 'Periodic'; nearest: PeriodicSequences"),
        ("data.longest=20", "data: 0 ≤ offset and 1 ≤ shortest ≤ longest .* longest=20"),
        ("data.length=40", "rows of data must fit model.n_ctx=16, got rows of 40 tokens"),
        ("data.d_vocab=13", "data.d_vocab must be at most model.d_vocab=12, got 13"),
        ("data.noise=1", "data: noise must be a share"),
        ("optimiser.lr=0", "optimiser: lr must be above 0, got 0"),
        ("optimiser.betas=[0.9]", r"optimiser.betas must be a list of 2, got \[0.9\]"),
        ("optimiser.betas=[0.9, 1]", r"optimiser: betas must lie from 0 to below 1, got \(0.9, 1.0\)"),
        ("optimiser.decayed=some", "optimiser.decayed must be one of matrices, positions, everything, got 'some'"),
        ("optimiser.clip=-1", "optimiser: clip must be above 0, got -1"),
        ("schedule.shape=triangle", "schedule.shape must be one of stable-decay, cosine, constant, got 'triangle'"),
        ("schedule.warmup=20", "schedule.warmup must be less than steps, got warmup=20, steps=20"),
        ("schedule.decay=2", "schedule: decay must be a share"),
        ("probes.batch=-1", "probes: batch and held_out must be 0 or more"),
        ("probes.seq_len=8", r"probes.seq_len must leave 1 \+ 2 seq_len ≤ n_ctx=16, got 8"),
        ("checkpoints.every=-5", "checkpoints: every must be 0 or more steps, got -5"),
        ("checkpoints.often=1", "checkpoints has no field 'often'"),
        ('log=["tensorbord"]', r"log\[0\] must be one of tensorboard, wandb, got 'tensorbord'"),
        ("steps.x=1", "steps.x must be in a section, but steps is 20"),
        ("steps", "a change of a recipe must be key=value, such as steps=500, got 'steps'"),
        ("=5", "a change of a recipe must be key=value"),
    ],
)
def test_what_cannot_be_is_one_error_that_names_it(tmp_path, change, said):
    path = tmp_path / "mine.toml"
    path.write_text(tiny().to_toml())
    with pytest.raises(ConfigError, match=said) as caught:
        read_recipe(path, [change])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["steps", "batch_size", "model", "data"])
def test_what_must_be_given_is_missed(name):
    with pytest.raises(ConfigError, match=f"lacks a field, '{name}'"):
        recipe_of({key: value for key, value in TINY.items() if key != name})


def test_a_source_that_is_no_recipe_is_told(tmp_path):
    with pytest.raises(ConfigError, match="one of .*toy-induction.*, got 'nope', which is neither"):
        read_recipe("nope")
    path = tmp_path / "mine.toml"
    for content in (b"steps = = 3", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"mine\.toml must be a TOML file, got: "):
            read_recipe(path)
    with pytest.raises(ConfigError, match="must be a TOML file, got: .*[Dd]irectory"):
        read_recipe(tmp_path)


def without_d_vocab(**model):
    return {**TINY, "model": {name: part for name, part in TINY["model"].items() if name != "d_vocab"} | model}


def test_a_model_has_as_many_tokens_as_its_tokenizer_or_its_data(tmp_path):
    integer_vocabulary(21).save(tmp_path / "numbers")
    assert recipe_of(without_d_vocab()).model.config.d_vocab == TINY["data"]["d_vocab"] == 12
    assert recipe_of(without_d_vocab(tokenizer="integers")).model.config.d_vocab == 12
    assert recipe_of(without_d_vocab(tokenizer=str(tmp_path / "numbers"))).model.config.d_vocab == 21
    text = {"data": {"kind": "Text", "source": "made:3", "length": 8}}
    for tokenizer in ({"size": 300}, {"size": 300, "kind": "WordPiece"}):
        assert recipe_of(without_d_vocab(tokenizer=tokenizer) | text).model.config.d_vocab == 300
    assert recipe_of(without_d_vocab(tokenizer={"size": 300}, d_vocab=320) | text).model.config.d_vocab == 320
    for tokenizer in ({}, {"tokenizer": "integers"}, {"tokenizer": "none"}):
        with pytest.raises(ConfigError, match="^model lacks a field, 'd_vocab'; give model.d_vocab$"):
            recipe_of(without_d_vocab(**tokenizer) | text)
    with pytest.raises(ConfigError, match="model.tokenizer: size must be 258 or more for BPE, got 5"):
        recipe_of(without_d_vocab(tokenizer={"size": 5}) | text)


def test_tables_in_lists_are_written_in_one_line_and_read_as_they_were():
    values = {
        "seed": [0, 1],
        "log": [[], ["wandb"]],
        "data": [{"kind": "Text", "source": ["a", 'b "c"'], "copies": {"longest": 3}}, {}, {"bos": False, "x y": 1e-7}],
        "grid": {},
        "model": {"take": {"blocks.0": ["gpt2"]}, "tokenizer": [{"size": 300}, "integers"]},
    }
    printed = toml(values)
    assert tomllib.loads(printed) == values
    assert len([line for line in printed.splitlines() if line]) == 4 + 2 + 2
