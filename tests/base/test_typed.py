from dataclasses import dataclass, field
from typing import Literal

import pytest

from pellucid.base.errors import ConfigError
from pellucid.base.typed import table, typed


@dataclass(frozen=True)
class Circle:
    radius: float


@dataclass(frozen=True)
class Square:
    side: float
    turned: bool = False


@dataclass(frozen=True)
class Picture:
    shape: Circle | Square | None
    name: str = "picture"
    size: int | None = None
    colour: Literal["red", "blue"] = "red"
    corners: tuple[float, float] = (0.0, 1.0)
    tags: tuple[str, ...] = ()
    words: dict[str, int] = field(default_factory=dict)
    source: str | tuple[str, ...] = ""

    def __post_init__(self) -> None:
        if self.size == 13:
            raise ConfigError("size must not be 13")


WHOLE = {
    "shape": {"kind": "Square", "side": 2.0, "turned": True},
    "name": "x",
    "size": 3,
    "colour": "blue",
    "corners": [1.0, 2.0],
    "tags": ["a", "b"],
    "words": {"k": 1},
    "source": ["one", "two"],
}


def test_a_table_becomes_a_value_and_back():
    made = typed(Picture, WHOLE, "picture")
    assert made == Picture(Square(2.0, True), "x", 3, "blue", (1.0, 2.0), ("a", "b"), {"k": 1}, source=("one", "two"))
    assert table(made) == WHOLE


def test_whole_numbers_are_numbers_and_none_may_be_said_in_words():
    made = typed(Picture, {"shape": "none", "size": "none", "corners": [0, 1]}, "picture")
    assert made == Picture(None) and isinstance(made.corners[0], float)
    assert typed(Picture, {"shape": None}, "picture") == Picture(None)


def test_a_kind_without_fields_to_give_may_stand_alone():
    assert typed(Circle | Square | None, {"kind": "Circle", "radius": 1}, "shape") == Circle(1.0)
    with pytest.raises(ConfigError, match="shape lacks a field, 'radius'"):
        typed(Circle | Square | None, "Circle", "shape")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"nam": "x"}, "picture has no field 'nam'; nearest: name"),
        ({"shape": {"kind": "Circl", "radius": 1}}, "picture.shape must be of kind Circle, Square, got 'Circl'"),
        ({"shape": {"kind": "Circle", "side": 1}}, "picture.shape has no field 'side'; there is: radius"),
        ({"name": 3}, "picture.name must be text, got 3"),
        ({"size": 1.5}, "picture.size must be a whole number, got 1.5"),
        ({"size": True}, "picture.size must be a whole number, got True"),
        ({"shape": {"kind": "Square", "side": 1, "turned": 1}}, "picture.shape.turned must be true or false, got 1"),
        ({"shape": {"kind": "Square", "side": "1"}}, "picture.shape.side must be a number, got '1'"),
        ({"colour": "bleu"}, "picture.colour must be one of red, blue, got 'bleu'; nearest: blue"),
        ({"corners": [1.0]}, r"picture.corners must be a list of 2, got \[1.0\]"),
        ({"corners": 1.0}, "picture.corners must be a list, got 1.0"),
        ({"tags": ["a", 2]}, r"picture.tags\[1\] must be text, got 2"),
        ({"words": {"k": "v"}}, "picture.words.k must be a whole number, got 'v'"),
        ({"words": 3}, "picture.words must be a table, got 3"),
        ({"source": 3}, "picture.source must be text or .*, got 3"),
        ({"size": 13}, "picture: size must not be 13"),
    ],
)
def test_what_a_type_cannot_take_is_refused_by_its_place(change, found):
    with pytest.raises(ConfigError, match=found):
        typed(Picture, {"shape": {"kind": "Circle", "radius": 1}} | change, "picture")


def test_what_is_no_table_is_refused():
    with pytest.raises(ConfigError, match="picture must be a table of fields, got 3"):
        typed(Picture, 3, "picture")
