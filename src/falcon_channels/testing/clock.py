"""An event loop with a fake clock: hours pass without waiting.

The loop runs everything that is ready. If nothing is ready, it does not wait for the
next timer but sets its clock to the time of that timer. A test of a day of reconnects
takes only as long as the code that runs during that day.

Two runs of the same code execute the same event-loop iterations, however busy the
machine is. This requires that the code reads the time only from the loop, and starts no
threads.

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

from falcon_channels.channels import Channels
from falcon_channels.errors import ChannelsError

Result = TypeVar('Result')

#: The minimum step of the clock in seconds. A smaller one could be lost in rounding,
#: and the clock would stand still.
_MIN_STEP_S = 1e-6


class FakeClockStuckError(RuntimeError):
    """All tasks wait, and no timer is left that could wake one of them."""


class _JumpingSelector(selectors.BaseSelector):
    """Polls real files, and advances the clock instead of waiting."""

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
                'all tasks wait, and no timer is left that could wake one of them: the '
                'code would hang'
            )
        self.now_s += max(timeout, _MIN_STEP_S)
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
    """An event loop that never waits; its `time` begins at 0.

    Use it with a test framework that accepts a loop factory. Otherwise use
    `run_with_fake_clock`.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the time of the fake clock in seconds."""
        return self._jumping.now_s


def check_clock(channels: Channels) -> None:
    """Refuse channels whose broker needs real time in a loop with a fake clock.

    The clock would jump to the deadlines of the broker's calls, and they would fail.

    Raises:
        ChannelsError: The loop has a fake clock, and the broker uses a file or a
            server.
    """
    broker = channels.node.broker
    if broker.capabilities.durable and isinstance(
        asyncio.get_running_loop(), FakeClockLoop
    ):
        raise ChannelsError(
            'a fake clock works with the memory broker only, not with '
            f'{type(broker).__name__}: use Channels("memory://") in tests, or run this '
            'test with asyncio.run'
        )


def run_with_fake_clock(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in a `FakeClockLoop`, like `asyncio.run`.

    Args:
        main: The coroutine.

    Returns:
        The result of the coroutine.

    Raises:
        FakeClockStuckError: All tasks wait, and no timer is left. With a real clock the
            code would hang.
    """
    with asyncio.Runner(loop_factory=FakeClockLoop) as runner:
        return runner.run(main)
