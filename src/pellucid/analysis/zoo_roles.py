"""Which roles a head may play: a registry, in which each role says what its score is compared with.

Roles of attention are told from random tokens, others from the weights, others from prompts of a task.
"""

from dataclasses import dataclass

from pellucid.base.errors import UnknownNameError, nearest

OFFSETS = 5
"""Positional roles that are looked for where none is named."""
POSITIONAL = "positional_"


@dataclass(frozen=True, kw_only=True)
class ZooRole:
    """One role that a head may play.

    Args:
        name: As commands and tables call it.
        about: What a head of this role does.
        control: What its score is compared with.
        kind: Where it is told from: ``"attention"``, ``"weights"`` or a ``"task"``.
        least: How far above its control a head must lie to be said to play it, in the unit of the score.
    """

    name: str
    about: str
    control: str
    kind: str = "attention"
    least: float = 0.1


_UNIFORM, _STRIPE = "uniform attention over the visible keys", "the same stripe on tokens that do not repeat"
_ABC = "the same on prompts in which no name is repeated"
ZOO = {
    role.name: role
    for role in (
        ZooRole(name="previous_token", about="attends to the token before", control=_UNIFORM),
        ZooRole(name="duplicate_token", about="attends to the same token, earlier", control=_STRIPE),
        ZooRole(name="induction", about="attends to what followed the same token before", control=_STRIPE),
        ZooRole(name="bos", about="attends to BOS", control=_UNIFORM),
        ZooRole(name="self", about="attends to the token itself", control=_UNIFORM),
        *(
            ZooRole(name=f"{POSITIONAL}{k}", about=f"attends {k} back, on tokens that do not repeat", control=_UNIFORM)
            for k in range(1, OFFSETS + 1)
        ),
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
            control="another token instead",
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
                control="random matrices of the same shapes",
                kind="weights",
                least=0.05,
            )
            for name, what in (("q", "queries"), ("k", "keys"), ("v", "values"))
        ),
        ZooRole(name="name_mover", about="attends to the right name and writes for it", control=_ABC, kind="task"),
        ZooRole(name="negative", about="attends to the right name and writes against it", control=_ABC, kind="task"),
        ZooRole(
            name="s_inhibition",
            about="attends to the repeated name and keeps name movers off it",
            control=_ABC,
            kind="task",
            least=0.05,
        ),
        ZooRole(
            name="backup",
            about="writes more for the right name once the name movers are ablated",
            control="its own effect before",
            kind="task",
        ),
    )
}
"""Every role by name."""


def role_named(name: str) -> ZooRole:
    """A role by its name; ``positional_k`` for any k.

    Raises:
        UnknownNameError: There is no such role.

    Example:
        >>> role_named("positional_9").about
        'attends 9 back, on tokens that do not repeat'
    """
    if name in ZOO:
        return ZOO[name]
    k = name.removeprefix(POSITIONAL)
    if name.startswith(POSITIONAL) and k.isascii() and k.isdigit() and int(k) and k == str(int(k)):
        return ZooRole(name=name, about=f"attends {k} back, on tokens that do not repeat", control=_UNIFORM)
    raise UnknownNameError(f"role must be a known one, got {name!r}{nearest(name, ZOO)}")
