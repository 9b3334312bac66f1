"""The garbage collector in a process with many connections.

CPython runs its collector when the number of objects has grown by 700 (by 2,000 in
CPython 3.13). A busy server always has some thousand objects that it still needs. The
collector then runs often, finds nothing, and counts these objects as long-lived. It
therefore often reads all objects of the process. With 1,000 streams, this took a sixth
of the CPU, and paused all connections for 70 ms each time
(benchmarks/event_streams.py).
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
