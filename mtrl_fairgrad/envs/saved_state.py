"""A saved state of the environments: its checks, and its form in checkpoints.

`TaskVectorEnv.get_state` returns one mapping per sub-environment. `to_arrays` collects them in a
few arrays, which a checkpoint stores as tensors, since the actions of long episodes of many
simulators are too many for a JSON file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.envs.suite import Suite
from mtrl_fairgrad.envs.workers.shared_memory import Buffers
from mtrl_fairgrad.utils.encoded_arrays import decode_array, decode_numbers, encode_array
from mtrl_fairgrad.utils.validation import ConfigError, check_integer

if TYPE_CHECKING:
    from mtrl_fairgrad.envs.vector_env import TaskVectorEnv

STATE_FORMAT = 2


def fingerprint(envs: "TaskVectorEnv") -> dict[str, Any]:
    """Return what must agree for a saved state to be valid; JSON-serialisable."""
    made = {
        "format": STATE_FORMAT,
        "tasks": list(envs.tasks),
        "seeds": list(envs.seeds),
        "role": envs.role,
        "copies": envs.copies,
    }
    return made | envs.suite.fingerprint()


def saved_rows(saved: Any, made: dict[str, Any], rows: int, suite: Suite) -> list[dict[str, Any]]:
    """Return the rows of a saved state if it is intact and from environments made like these.

    Args:
        saved: what `get_state` returned, perhaps damaged.
        made: settings of these environments.
        rows: sub-environments of these environments.
        suite: suite of these environments.

    Raises:
        ValueError: otherwise.
    """
    try:
        # Older versions had no copies.
        origin, found = {"copies": 1, **saved["made"]}, saved["rows"]
        differing = [key for key in made if origin[key] != made[key]]
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(
            f"the saved environment state is damaged ({error!r}): use another checkpoint."
        ) from None
    if differing:
        key = differing[0]
        raise ConfigError(
            f"{key}={made[key]!r} differs from the saved environments, which had "
            f"{key}={origin[key]!r}: resume with that value.",
            key,
            made[key],
        )
    if (
        not isinstance(found, list)
        or len(found) != rows
        or not all(_is_saved_row(row, suite) for row in found)
    ):
        raise ValueError(
            f"the saved environment state does not hold {rows} intact rows: use another checkpoint."
        )
    return found


def _is_saved_row(row: Any, suite: Suite) -> bool:
    """Return whether a row holds a goal, a state of NumPy's generator and what the suite needs."""
    try:
        check_integer("goal", row["goal"], at_most=suite.goal_count - 1)
        np.random.PCG64().state = row["generator"]
        suite.check_state(row)
    except (TypeError, KeyError, ValueError, OverflowError):
        return False
    return True


# ---- results of steps that were not taken yet ----

RESULTS = tuple(
    each.name for each in fields(Buffers) if each.name not in ("actions", "step_seconds")
)
"""Buffers that a step writes its results to."""


def save_results(buffers: Buffers, rows: NDArray[np.intp]) -> dict[str, Any]:
    """Return the results of some rows as bytes."""
    return {name: encode_array(getattr(buffers, name)[rows]) for name in RESULTS}


def saved_results(
    saved: dict[str, Any], buffers: Buffers, half_rows: Sequence[NDArray[np.intp]]
) -> dict[int, dict[str, NDArray[Any]]]:
    """Return the results by half and buffer of the steps that were not taken.

    Raises:
        ValueError: they are damaged.
    """
    found: dict[int, dict[str, NDArray[Any]]] = {}
    try:
        for half, arrays in saved.get("results", {}).items():
            rows = half_rows[int(half)]
            found[int(half)] = {
                name: decode_array(arrays[name], getattr(buffers, name)[rows]) for name in RESULTS
            }
    except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"the saved results of a step are damaged ({error!r}): use another checkpoint."
        ) from None
    return found


# ---- in checkpoints ----

_WORD = 2**64


def to_arrays(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Split what `get_state` returned into JSON-serialisable values and arrays.

    Arrays: `goals`, `limits` int64 [N], `returned` float64 [N], `observations` float32
    [N, O'], `actions` float32, those of all rows in turn, of which each has `action_counts` int64
    [N], `generators` int64 [N, 6], and `results.HALF.NAME` uint8.
    """
    rows = state["rows"]
    actions = [decode_numbers(row["actions"], "f4") for row in rows]
    arrays: dict[str, NDArray[Any]] = {
        "goals": np.array([row["goal"] for row in rows], np.int64),
        "limits": np.array([row["limit"] for row in rows], np.int64),
        "returned": np.array([row["returned"] for row in rows], np.float64),
        "observations": np.stack([decode_numbers(row["observation"], "f4") for row in rows]),
        "actions": np.concatenate(actions),
        "action_counts": np.array([each.size for each in actions], np.int64),
        "generators": np.array([_to_words(row["generator"]) for row in rows]).view(np.int64),
    }
    for half, results in state["results"].items():
        for name, data in results.items():
            arrays[f"results.{half}.{name}"] = decode_numbers(data, np.uint8)
    return {"made": state["made"], "results": [int(half) for half in state["results"]]}, arrays


def from_arrays(plain: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the state that `to_arrays` split; `plain` itself if an older version wrote all there.

    What the arrays hold is checked by `saved_rows` and `saved_results`.

    Raises:
        ValueError: they are damaged.
    """
    try:
        if "rows" in plain:
            return plain
        counts = arrays["action_counts"]
        if (counts < 0).any() or counts.sum() != arrays["actions"].size:
            raise ValueError("there are more or fewer actions than counted")
        actions = np.split(arrays["actions"], np.cumsum(counts))[:-1]
        columns = {
            "goal": arrays["goals"].tolist(),
            "generator": [_from_words(words) for words in arrays["generators"].view(np.uint64)],
            "limit": arrays["limits"].tolist(),
            "actions": list(map(encode_array, actions)),
            "observation": list(map(encode_array, arrays["observations"])),
            "returned": arrays["returned"].tolist(),
        }
        tasks = plain["made"]["tasks"]
        rows = [
            {"task": tasks[n % len(tasks)], **dict(zip(columns, values, strict=True))}
            for n, values in enumerate(zip(*columns.values(), strict=True))
        ]
        results = {
            str(half): {name: encode_array(arrays[f"results.{half}.{name}"]) for name in RESULTS}
            for half in plain["results"]
        }
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ValueError(
            f"the saved environment state is damaged ({error!r}): use another checkpoint."
        ) from None
    return {"made": plain["made"], "rows": rows, "results": results}


def _to_words(generator: dict[str, Any]) -> NDArray[np.uint64]:
    """Return the state of NumPy's PCG64 as six words."""
    numbers = generator["state"]["state"], generator["state"]["inc"]
    halves = [part for number in numbers for part in divmod(number, _WORD)]
    return np.array([*halves, generator["has_uint32"], generator["uinteger"]], np.uint64)


def _from_words(words: NDArray[np.uint64]) -> dict[str, Any]:
    """Return the state of NumPy's PCG64 from `_to_words`."""
    high, low, inc_high, inc_low, has, uinteger = map(int, words)
    state = {"state": high * _WORD + low, "inc": inc_high * _WORD + inc_low}
    return {"bit_generator": "PCG64", "state": state, "has_uint32": has, "uinteger": uinteger}
