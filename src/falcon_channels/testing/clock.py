"""An event loop whose clock jumps: what waits for hours is over at once.

The loop runs everything that is ready. When nothing is, it does not wait for the next
timer, it sets its clock to it. Two runs of the same code take the same turns, whatever
else the machine does, as long as the code asks only the loop for the time and starts no
threads. A day of reconnects takes as long as the code that they run.

::

    from falcon_channels.testing import run_with_fake_clock

    def test_presence_expires() -> None:
        async def scenario() -> None:
            ...
            await asyncio.sleep(3600)

        run_with_fake_clock(scenario())
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from collections.abc import Mapping
import selectors
from typing import Any
from typing import TypeVar

Result = TypeVar('Result')

#: The clock moves at least so far, that a sum of floats cannot stand still.
_LEAST_S = 1e-6


class FakeClockStuckError(RuntimeError):
    """Every task waits for something that cannot happen any more."""


class _JumpingSelector(selectors.BaseSelector):
    """Polls real files, and moves the clock where a selector would wait."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.now_s = 0.0

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None:
            raise FakeClockStuckError(
                'every task waits, and no timer is left that could wake one'
            )
        self.now_s += max(timeout, _LEAST_S)
        return []

    def register(
        self, fileobj: Any, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(
        self, fileobj: Any, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class FakeClockLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits; see the module's page.

    Its `time` begins at 0. For a test framework that takes a loop factory; otherwise
    `run_with_fake_clock` is shorter.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the seconds that have passed on the fake clock."""
        return self._jumping.now_s


def run_with_fake_clock(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end in a `FakeClockLoop`, as `asyncio.run` would.

    Args:
        main: What to run.

    Returns:
        What it returned.

    Raises:
        FakeClockStuckError: It waits for something that nothing is left to bring about;
            with a real clock it would hang.
    """
    with asyncio.Runner(loop_factory=FakeClockLoop) as runner:
        return runner.run(main)
