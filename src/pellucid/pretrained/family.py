"""What a family of models is: how its configuration reads and writes, and where its weights lie.

Strict both ways. Each field of a configuration is read, ignored by name with a reason, or refused by name and value; a
configuration that a family cannot express is refused with what it lacks.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pellucid.base.errors import CheckpointError, ConfigError
from pellucid.model.config import Config
from pellucid.pretrained.rules import Format

IGNORED: dict[str, str] = {
    name: reason
    for reason, names in {
        "says who wrote the file": "_name_or_path _commit_hash name_or_path transformers_version "
        "transformers.js_config unsloth_version model_type architectures",
        "the files themselves say it": "torch_dtype dtype",
        "read with the tokenizer": "bos_token_id eos_token_id pad_token_id sep_token_id tokenizer_class",
        "a default of generation, not part of the model": "max_length min_length do_sample early_stopping num_beams "
        "num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty "
        "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores "
        "return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values suppress_tokens "
        "exponential_decay_length_penalty begin_suppress_tokens task_specific_params prefix use_cache "
        "decoder_start_token_id",
        "how transformers runs the model": "output_hidden_states output_attentions return_dict torchscript "
        "use_bfloat16 tf_legacy_loss chunk_size_feed_forward attn_implementation _attn_implementation "
        "_attn_implementation_autoset gradient_checkpointing is_decoder",
        "of heads for other tasks": "id2label label2id num_labels _num_labels problem_type finetuning_task",
    }.items()
    for name in names.split()
}
"""Fields that any configuration may hold and that do not change what a model computes, with the reason."""

FIXED: dict[str, Any] = {
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "tie_encoder_decoder": False,
    "pruned_heads": {},
    "quantization_config": None,
    "per_layer_config": None,
    "auto_map": None,
}
"""Fields that may have one value only, or none."""


class Fields:
    """A configuration's fields, taken one by one; `None` counts as absent.

    Args:
        values: The table.
        where: The file, for messages.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where
        self.taken: set[str] = set()

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number; without a default it must be there."""
        return self._take(name, default, int)

    def number(self, name: str, default: float | None = None) -> float:
        """A number."""
        return float(self._take(name, default, int, float))

    def boolean(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        return self._take(name, default, bool)

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        return self._take(name, default, str)

    def table(self, name: str) -> Mapping[str, Any]:
        """A table; empty where there is none."""
        return self._take(name, {}, dict)

    def has(self, name: str) -> bool:
        """Whether the field has a value."""
        return self.values.get(name) is not None

    def refuse(self, name: str, must: str) -> CheckpointError:
        """The error for a value that cannot be."""
        return CheckpointError(f"{self.where}: {name} must be {must}, got {self.values.get(name)!r}")

    def _take(self, name: str, default: Any, *kinds: type) -> Any:
        self.taken.add(name)
        value = self.values.get(name)
        value = default if value is None else value
        if type(value) not in kinds:
            raise self.refuse(name, " or ".join(kind.__name__ for kind in kinds))
        return value


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of model that transformers writes and reads."""

    name: str
    """Its `model_type`."""
    architecture: str
    """The class of transformers."""
    read: Callable[[Fields], Config]
    """Its fields as a configuration."""
    write: Callable[[Config], dict[str, Any]]
    """The inverse of `read`, for what the family can express."""
    ignored: Mapping[str, str]
    """Fields that do not change what the model computes, with the reason."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields that may have one value only."""
    form: Format

    def config(self, values: Mapping[str, Any], where: str) -> Config:
        """The configuration that a `config.json` describes.

        Raises:
            CheckpointError: A field is missing, unknown, or has a value that this family does not take here.
        """
        fields = Fields(values, where)
        for name, only in {**FIXED, **self.fixed}.items():
            if values.get(name) not in (None, only):
                raise CheckpointError(
                    f"{where}: {name} must be {only!r}, got {values[name]!r}; {self.name} models that differ are not "
                    "read yet"
                )
        try:
            config = self.read(fields)
        except ConfigError as error:
            raise CheckpointError(f"{where}: {error}") from error
        known = fields.taken | IGNORED.keys() | FIXED.keys() | self.ignored.keys() | self.fixed.keys()
        unknown = sorted(set(values) - known)
        if unknown:
            raise CheckpointError(
                f"{where}: every field must be understood, so that none changes the model unseen; {unknown[0]} = "
                f"{values[unknown[0]]!r} is not known for {self.name} models; remove it if it means nothing"
            )
        return config

    def fields(self, config: Config) -> dict[str, Any]:
        """The `config.json` of a model in this family's format.

        Raises:
            ConfigError: The family cannot express it; the message says what.
        """
        values = {"model_type": self.name, "architectures": [self.architecture], **self.write(config)}
        back = self.config(values, "the configuration")
        lost = list(_differences(_plain(config).to_dict(), _plain(back).to_dict()))
        if lost:
            raise ConfigError(f"{self.name} models cannot have {', '.join(lost)}; save it in Pellucid's own format")
        return values


def _plain(config: Config) -> Config:
    """The same model, with what may be said in two ways said in one."""
    attention = config.attention
    return config.change(
        attention=replace(attention, n_kv_heads=attention.kv_heads, scale=attention.factor),
        d_vocab_out=config.vocab_out,
        init_range=None,
    )


def _differences(given: Mapping[str, Any], other: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for name, value in given.items():
        if isinstance(value, dict) and isinstance(other.get(name), dict):
            yield from _differences(value, other[name], f"{before}{name}.")
        elif value != other.get(name):
            yield f"{before}{name} = {value!r}"
