"""What an update of each method launches on a GPU, counted on any machine; see `launches`.

Each host call splits the CUDA graph of an update. The networks' sizes do not matter.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import launches, update
from .settings import Row, Settings, Size
from .variants import EAGER, FORMS, METHODS

SECTION = "launches"


def measure(settings: Settings) -> Iterator[Row]:
    """Yield launches and host calls of an update with one seed."""
    size = Size(width=8)
    for name, way in METHODS.items():
        config = update.configuration(size, settings.device, way, **FORMS[EAGER])
        found = launches.update_launches(
            config, size.tasks, size.observation, size.action, refuse=False
        )
        yield Row(SECTION, f"{name}: launches", found.launches, "operations")
        yield Row(SECTION, f"{name}: host calls", found.host_calls.total(), "calls")
