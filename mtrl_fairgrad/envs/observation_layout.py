"""What the numbers of an observation are, by name: for exported policies and for maps of goals."""

from typing import NamedTuple

from mtrl_fairgrad.envs.metaworld import OBSERVATION_SIZE


class ObservationPart(NamedTuple):
    """Numbers `start` to `stop` (exclusive) of an observation."""

    name: str
    start: int
    stop: int
    metaworld: tuple[int, int] | None
    """The same numbers' place in Metaworld's own 39; None for what it does not give, such as the
    one-hot identity.
    """


_METAWORLD = (
    ("hand", (0, 3)),
    ("gripper_opening", (3, 4)),
    ("object_1", (4, 7)),
    ("object_1_quaternion", (7, 11)),
    ("object_2", (11, 14)),
    ("object_2_quaternion", (14, 18)),
    ("previous_step", (18, 36)),  # the first 18 numbers of the step before
    ("goal", (36, 39)),
)
_POSITIONS = ("hand", "object_1", "object_2", "goal")
_KNOWN = {OBSERVATION_SIZE: tuple(name for name, _ in _METAWORLD), 12: _POSITIONS}
"""Numbers in an observation without the identity → its parts; the 2021 benchmark gave the twelve of
`_POSITIONS`.
"""


def observation_parts(
    size: int, one_hot_size: int, metaworld: bool = True
) -> list[ObservationPart]:
    """The parts of an observation, in order and without gaps.

    Args:
        size: numbers in an observation, identity included.
        one_hot_size: how many of them, at the end, are the one-hot identity of the task; 0 for none.
        metaworld: whether the tasks are Metaworld's.

    Returns:
        Metaworld's parts (positions in metres) where the size is one it gives, else one part
        "observation".
    """
    names, places = _KNOWN.get(size - one_hot_size) if metaworld else None, dict(_METAWORLD)
    parts, start = list[ObservationPart](), 0
    for name in names or ("observation",):
        place = places.get(name)
        stop = start + (place[1] - place[0] if place else size - one_hot_size)
        parts.append(ObservationPart(name, start, stop, place))
        start = stop
    return [*parts, ObservationPart("task_one_hot", start, size, None)] if one_hot_size else parts
