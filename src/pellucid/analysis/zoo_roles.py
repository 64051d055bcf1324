"""Which roles a head may play: a registry, in which each role says what its score is compared with.

Roles of attention are told from random tokens, others from the weights, others from prompts of a task.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pellucid.base.errors import ArgumentError, UnknownNameError, nearest

OFFSETS = 5
"""Positional roles that are looked for where none is named."""
POSITIONAL = "positional_"
COPIES = 0.95
"""A name mover puts more than this share of the names, where it attends to them, among its five most written tokens: so
do those of Wang et al. 2022."""
RANDOM, SHUFFLED = "random tokens that do not repeat", "shuffled text"
"""What positional roles are told from."""
INDUCTION_ALONE = "attends to what followed the same token before"


@dataclass(frozen=True, kw_only=True)
class ZooRole:
    """One role that a head may play.

    Args:
        name: As commands and tables call it.
        about: What a head of this role does, and what else is asked of it.
        control: What its score is compared with.
        kind: Where it is told from: ``"attention"``, ``"weights"`` or a ``"task"``.
        least: How far above its control a head must lie to be said to play it, in the unit of the score.
        note: What a yes does not say.
    """

    name: str
    about: str
    control: str
    kind: str = "attention"
    least: float = 0.1
    note: str = ""


_UNIFORM, _STRIPE = "uniform attention over the visible keys", "the same stripe on tokens that do not repeat"
_ABC = "the same on prompts in which no name is repeated"


def positional(k: int, on: str = RANDOM) -> ZooRole:
    """The role of looking `k` back, told from `RANDOM` tokens or `SHUFFLED` text."""
    return ZooRole(name=f"{POSITIONAL}{k}", about=f"attends {k} back, on {on}", control=_UNIFORM)


ZOO = {
    role.name: role
    for role in (
        ZooRole(name="previous_token", about="attends to the token before", control=_UNIFORM),
        ZooRole(name="duplicate_token", about="attends to the same token, earlier", control=_STRIPE),
        ZooRole(
            name="induction",
            about=f"{INDUCTION_ALONE}, at other distances too",
            control=_STRIPE,
            note="told from attention alone: whether it needs a previous-token head, `pellucid study induction` tells",
        ),
        ZooRole(name="bos", about="attends to BOS", control=_UNIFORM),
        ZooRole(name="self", about="attends to the token itself", control=_UNIFORM),
        *(positional(k) for k in range(1, OFFSETS + 1)),
        ZooRole(
            name="copying",
            about="writes for the token that it attends to: Re Σλ / Σ|λ|",
            control="the vocabulary shuffled between embedding and unembedding",
            kind="weights",
            least=0.5,
        ),
        ZooRole(
            name="copy_suppression",
            about="writes against the token that it attends to: share of tokens in their own bottom ten",
            control="another of these tokens instead",
            kind="weights",
            least=0.5,
        ),
        ZooRole(
            name="successor",
            about="writes most for the next number, day or month: share of them",
            control="a random other of the same row instead of the next",
            kind="weights",
            least=0.5,
        ),
        *(
            ZooRole(
                name=f"{name}_composition",
                about=f"reads for its {what} what an earlier head writes",
                control="the strongest of as many random heads of the same shapes",
                kind="weights",
                least=0.05,
            )
            for name, what in (("q", "queries"), ("k", "keys"), ("v", "values"))
        ),
        ZooRole(
            name="name_mover",
            about=f"attends to the right name and writes for it, and for more than {COPIES:.0%} of all names",
            control=_ABC,
            kind="task",
        ),
        ZooRole(
            name="negative",
            about=f"attends to the right name and writes against it, and against more than {COPIES:.0%} of all names",
            control=_ABC,
            kind="task",
        ),
        ZooRole(
            name="s_inhibition",
            about="attends to the repeated name and lowers the attention of name movers to it",
            control=_ABC,
            kind="task",
            least=0.05,
        ),
        ZooRole(
            name="backup",
            about="writes more for the right name once the name movers are out",
            control="what it gains when as many other heads of the same layers are out",
            kind="task",
        ),
    )
}
"""Every role by name."""


def role_named(name: str) -> ZooRole:
    """A role by its name; ``positional_k`` for any k.

    Raises:
        UnknownNameError: There is no such role.
        ArgumentError: It is no name.

    Example:
        >>> role_named("positional_9").about
        'attends 9 back, on random tokens that do not repeat'
    """
    if not isinstance(name, str):
        raise ArgumentError(f"role must be a name such as 'induction', got {name!r}")
    if name in ZOO:
        return ZOO[name]
    k = name.removeprefix(POSITIONAL)
    if name.startswith(POSITIONAL) and k.isascii() and k.isdigit() and int(k) and k == str(int(k)):
        return positional(int(k))
    raise UnknownNameError(f"role must be a known one, got {name!r}{nearest(name, ZOO)}")


def roles_named(names: Sequence[str]) -> list[ZooRole]:
    """Roles by their names, each once.

    Raises:
        UnknownNameError: There is no such role.
        ArgumentError: What is no list of names.

    Example:
        >>> [role.kind for role in roles_named(["self", "copying", "self"])]
        ['attention', 'weights']
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ArgumentError(f"roles must be a list of names, got {names!r}; write [{names!r}]")
    return list({role.name: role for role in map(role_named, names)}.values())
