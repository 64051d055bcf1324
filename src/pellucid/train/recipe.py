"""A training run as one value: what is trained, on what, how, and what is looked at and kept on the way.

In: a TOML file, the name of a bundled recipe, or a table; and changes, ``"model.d_model=128"``. Out: a `Recipe`, whole
and checked before anything starts. Each section's class stands beside the thing that it builds.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pellucid.base.errors import ConfigError, nearest
from pellucid.base.typed import NONE, table, typed
from pellucid.model.config import Config
from pellucid.train.checkpoints import Checkpoints
from pellucid.train.optimiser import Optimiser
from pellucid.train.probes import Probes
from pellucid.train.schedule import Schedule
from pellucid.train.sentences import NameSentences
from pellucid.train.sequences import MostFrequentToken, PeriodicSequences, TokenSet, TranslatedSequences
from pellucid.train.start import INTEGERS, Start, named_tokenizer
from pellucid.train.text import Text

Data = PeriodicSequences | TranslatedSequences | MostFrequentToken | TokenSet | NameSentences | Text
"""What a model may be trained on."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a training run depends on.

    Args:
        steps: Updates of the weights.
        batch_size: Rows of each, of all processes together.
        model: What is trained.
        data: On what.
        seed: Of the fresh weights and of the batches.
        parts: How many parts of a batch are run one after the other, to take less memory.
        precision: ``"float32"``, or ``"bfloat16"`` for products where torch deems that safe.
        optimiser: What moves the weights.
        schedule: How the learning rate goes.
        probes: What is looked at, and when.
        checkpoints: Which steps' models are kept.
        log: Where the curves go beside `metrics.jsonl`.

    Raises:
        ConfigError: A value cannot be, or two contradict each other.

    Example:
        >>> recipe = read_recipe("toy-induction", ["steps=500", "seed=3"])
        >>> recipe.steps, recipe.seed, recipe.model.config.d_model
        (500, 3, 64)
    """

    steps: int
    batch_size: int
    model: Start
    data: Data
    seed: int = 0
    parts: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    probes: Probes = Probes()
    checkpoints: Checkpoints = Checkpoints()
    log: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "parts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed must lie in 0..2**31 − 1, got {self.seed}")
        self.schedule.check(self.steps)
        if self.model.config is not None:
            self.check(self.model.config)

    def check(self, config: Config) -> None:
        """Whether a model of this kind can be trained so.

        Raises:
            ConfigError: It cannot.
        """
        self.probes.check(config.n_ctx)
        encoded = isinstance(self.data, TranslatedSequences)
        kind = type(self.data).__name__
        wanted = "encoder-decoder" if encoded else "decoder"
        if config.architecture != wanted:
            raise ConfigError(
                f"data of kind {kind} is for model.architecture={wanted!r}, got {config.architecture!r}; choose other "
                "data, or another architecture"
            )
        if self.data.longest_row > config.n_ctx:
            raise ConfigError(
                f"rows of data must fit model.n_ctx={config.n_ctx}, got rows of {self.data.longest_row} tokens; "
                "shorten them, or give the model a longer context"
            )
        if not isinstance(self.data, Text) and self.data.d_vocab > min(config.d_vocab, config.vocab_out):
            raise ConfigError(
                f"data.d_vocab must be at most model.d_vocab={min(config.d_vocab, config.vocab_out)}, got "
                f"{self.data.d_vocab}"
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON and TOML can hold it, defaults included; the inverse of `recipe_of`."""
        values = table(self)
        model = values["model"]
        config = model.pop("config")
        values["model"] = model if config is None else {**config, **model}
        return values

    def to_toml(self) -> str:
        """The whole configuration, as a file holds it."""
        return toml(self.to_dict())


def read_recipe(source: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of a file, or a bundled one by its name.

    Args:
        source: A TOML file, or one of `bundled_recipes`.
        changes: ``"key=value"``, the value as in TOML (or bare text), such as ``"steps=500"``, ``"data.noise=0.1"``.

    Raises:
        ConfigError: No such recipe, no TOML, an unknown key, an impossible value.
    """
    return recipe_of(read_values(source, changes))


def read_values(source: str | Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The table of a file, or of a bundled recipe; see `read_recipe`.

    Raises:
        ConfigError: No such recipe, or no TOML.
    """
    path = _bundled() / f"{source}.toml" if str(source) in bundled_recipes() else Path(source)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        names = bundled_recipes()
        raise ConfigError(
            f"a recipe must be a TOML file or one of {', '.join(names)}, got {str(source)!r}, which is neither"
            f"{nearest(str(source), names) if len(names) > 12 else ''}"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} must be a TOML file, got: {error}") from error
    for change in changes:
        _change(values, change)
    return values


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """The recipe of a table, such as a TOML file or `Recipe.to_dict` gives.

    Raises:
        ConfigError: An unknown key, or an impossible value.
    """
    given = dict(values)
    model = given.get("model")
    if isinstance(model, Mapping):
        own = {field.name for field in fields(Start)} - {"config"}
        config = {name: value for name, value in model.items() if name not in own}
        if config and "d_vocab" not in config:
            config |= _d_vocab(model.get("tokenizer"), given.get("data"))
        rest: dict[str, Any] = {name: value for name, value in model.items() if name in own}
        if config:
            rest["config"] = config
        try:
            given["model"] = rest
            return typed(Recipe, given, "recipe")
        except ConfigError as error:
            raise ConfigError(str(error).replace("recipe.model.config", "model").replace("recipe.", "")) from error
    return typed(Recipe, given, "recipe")


def _d_vocab(tokenizer: Any, data: Any) -> dict[str, Any]:
    """Tokens of a model whose recipe does not tell: as many as its tokenizer or its data has."""
    if isinstance(tokenizer, str) and tokenizer not in (INTEGERS, NONE):
        return {"d_vocab": 1 + max(named_tokenizer(tokenizer).get_vocab().values())}
    for told, name in ((tokenizer, "size"), (data, "d_vocab")):
        if isinstance(told, Mapping) and name in told:
            return {"d_vocab": told[name]}
    return {}


def bundled_recipes() -> list[str]:
    """Names of the recipes that are part of the package."""
    return sorted(path.stem for path in _bundled().glob("*.toml"))


def _bundled() -> Path:
    return Path(str(files("pellucid"))) / "train" / "recipes"


def _change(values: dict[str, Any], change: str) -> None:
    """Sets ``key.key=value`` in nested tables."""
    key, sign, text = change.partition("=")
    names = key.strip().split(".")
    if not sign or not all(names):
        raise ConfigError(f"a change of a recipe must be key=value, such as steps=500, got {change!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    put(values, names, value)


def put(values: dict[str, Any], steps: Sequence[str], value: Any) -> None:
    """Sets a value in nested tables.

    Args:
        values: The outermost table.
        steps: The names that lead to the value; tables that are missing are made.
        value: What is put there.

    Raises:
        ConfigError: What stands on the way is no table.

    Example:
        >>> values = {"steps": 5}
        >>> put(values, ["optimiser", "lr"], 0.1)
        >>> values
        {'steps': 5, 'optimiser': {'lr': 0.1}}
    """
    for name in steps[:-1]:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{'.'.join(steps)} must be in a section, but {name} is {inner!r}")
        values = inner
    values[steps[-1]] = value


def toml(values: Mapping[str, Any]) -> str:
    """A table as TOML, plain values first; None is the text "none".

    Example:
        >>> print(toml({"steps": 5, "model": {"act": "relu", "betas": [0.9, 0.98]}}), end="")
        steps = 5
        <BLANKLINE>
        [model]
        act = "relu"
        betas = [0.9, 0.98]
    """
    return "\n".join(_lines(values, "")).strip("\n") + "\n"


def _lines(values: Mapping[str, Any], name: str) -> list[str]:
    plain = {key: value for key, value in values.items() if not (isinstance(value, Mapping) and value)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    if name and lines:
        lines = ["", f"[{name}]", *lines]
    for key, value in values.items():
        if key not in plain:
            lines += _lines(value, f"{name}.{_key(key)}" if name else _key(key))
    return lines


def _key(key: str) -> str:
    bare = key.replace("_", "").replace("-", "")
    return key if bare.isascii() and bare.isalnum() else json.dumps(key, ensure_ascii=False)


def _value(value: Any) -> str:
    if value is None:
        return json.dumps(NONE)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {_value(part)}" for key, part in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)
