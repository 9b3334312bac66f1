"""The garbage collector in a process with many connections.

CPython runs its collector whenever the number of objects has grown by a few hundred. A
busy server always has some thousand objects in progress, which the collector looks at
in vain. It also takes them for long-lived objects, and therefore often looks at all
objects of the process. With 1,000 streams, this took a sixth of the CPU, and paused all
connections for 70 ms each time (benchmarks/event_streams.py).
"""

from __future__ import annotations

import gc
from typing import Final

#: By how many objects the number of objects may grow before the collector runs. Until
#: then, garbage in reference cycles takes a few MiB.
OBJECTS: Final = 20_000
#: The thresholds of this Python before the application is loaded.
_DEFAULT: Final = gc.get_threshold()


def run_collector_less_often() -> None:
    """Raise the threshold of the collector, unless the application has set it."""
    if gc.get_threshold() == _DEFAULT and 0 < _DEFAULT[0] < OBJECTS:
        gc.set_threshold(OBJECTS, *_DEFAULT[1:])
