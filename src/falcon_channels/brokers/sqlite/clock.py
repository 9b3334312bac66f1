"""The clock of a database file, which decides when its rows expire.

The wall clock of a host may jump, for example when NTP corrects it. After a jump, all
rows would expire at once, or stay for as long as the jump. The clock of a file does not
jump. It starts with Unix time, and then advances with the monotonic clock of the host,
which all processes share.

The monotonic clock starts again when the host boots. The first transaction after a boot
therefore adds the time that has passed on the wall clock since the last write.
"""

from __future__ import annotations

from pathlib import Path
import sqlite3
import time
from typing import NamedTuple

_BOOT_ID = Path('/proc/sys/kernel/random/boot_id')


def wall_ms() -> int:
    """Return Unix time in milliseconds."""
    return int(time.time() * 1000)


def monotonic_ms() -> int:
    """Return the time of the host's monotonic clock in milliseconds."""
    return int(time.monotonic() * 1000)


def _find_boot() -> str:
    try:
        return _BOOT_ID.read_text(encoding='ascii').strip()
    except OSError:
        # NOTE: only Linux has this file. On other systems, the host has booted if the
        #   monotonic clock has gone back.
        return ''


#: Id of the current boot of the host; ``''`` if the system has none.
BOOT = _find_boot()


class DatabaseClock(NamedTuple):
    """The state of the clock, as it is stored in the table `head`.

    Attributes:
        clock_ms: Time of the clock when it was stored.
        wall_ms: Unix time when it was stored.
        boot: Id of the boot of the host in which it was stored.
        shift_ms: Time of the clock minus the monotonic time of that boot.
    """

    clock_ms: int
    wall_ms: int
    boot: str
    shift_ms: int

    @classmethod
    def start(cls) -> DatabaseClock:
        """Return the state of the clock of a new file."""
        now_ms = wall_ms()
        return cls(now_ms, now_ms, BOOT, now_ms - monotonic_ms())

    @classmethod
    def load(cls, connection: sqlite3.Connection) -> DatabaseClock:
        """Read the state in the current transaction."""
        return cls(
            *connection.execute(
                'SELECT clock_ms, wall_ms, boot, shift_ms FROM head'
            ).fetchone()
        )

    def advance(self) -> DatabaseClock:
        """Return the state at the current time, in the current boot of the host."""
        monotonic = monotonic_ms()
        now_ms = monotonic + self.shift_ms
        if self.boot != BOOT or now_ms < self.clock_ms:
            now_ms = self.clock_ms + max(0, wall_ms() - self.wall_ms)
        return DatabaseClock(now_ms, wall_ms(), BOOT, now_ms - monotonic)
