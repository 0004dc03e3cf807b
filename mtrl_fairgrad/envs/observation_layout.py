"""Names of the entries of an observation, for exported policies and maps of goals."""

from typing import NamedTuple

from mtrl_fairgrad.envs.metaworld import OBSERVATION_SIZE


class ObservationPart(NamedTuple):
    """Entries `start` to `stop` (exclusive) of an observation."""

    name: str
    start: int
    stop: int
    metaworld: tuple[int, int] | None
    """Place of the same entries in Meta-World's own 39; None for others, such as the one-hot
    identity.
    """


_METAWORLD = (
    ("hand", (0, 3)),
    ("gripper_opening", (3, 4)),
    ("object_1", (4, 7)),
    ("object_1_quaternion", (7, 11)),
    ("object_2", (11, 14)),
    ("object_2_quaternion", (14, 18)),
    ("previous_step", (18, 36)),  # the first 18 entries of the previous step
    ("goal", (36, 39)),
)
_POSITIONS = ("hand", "object_1", "object_2", "goal")
_KNOWN = {OBSERVATION_SIZE: tuple(name for name, _ in _METAWORLD), 12: _POSITIONS}
"""Length of an observation without the identity -> its parts. The 2021 benchmark gave `_POSITIONS`.
"""


def observation_parts(
    size: int, one_hot_size: int, metaworld: bool = True
) -> list[ObservationPart]:
    """Return the parts of an observation, in order and without gaps.

    Args:
        size: length of the observation, identity included.
        one_hot_size: length of the one-hot identity at its end; 0 for none.
        metaworld: whether the tasks are Meta-World's.

    Returns:
        Meta-World's parts (positions in metres) for the sizes that it gives, else one part
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
