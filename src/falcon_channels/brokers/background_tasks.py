"""Background tasks of brokers: one that fails is logged, and can start again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Coroutine
import logging
from typing import Any
from typing import TypeVar

_logger = logging.getLogger('falcon_channels')

_T = TypeVar('_T')

#: Seconds after which a function is called again.
_RESTART_S = 1.0


def start_task(coroutine: Coroutine[Any, Any, _T], name: str) -> asyncio.Task[_T]:
    """Start a task that ends only when it is cancelled.

    An error of the task is a defect of this library, and is logged.

    Args:
        coroutine: The coroutine of the task.
        name: Name of the task, to which the prefix ``falcon_channels`` is added.

    Returns:
        The task. The caller keeps it and cancels it.
    """
    task = asyncio.create_task(coroutine, name=f'falcon_channels {name}')

    def report(task: asyncio.Task[_T]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        _logger.critical(
            'task %r of a broker has failed', task.get_name(), exc_info=task.exception()
        )

    task.add_done_callback(report)
    return task


async def restart_after_errors(
    function: Callable[[], Coroutine[Any, Any, None]],
    on_failure: Callable[[], None],
) -> None:
    """Call a function until it returns; call it again a second after each error.

    Args:
        function: Runs for as long as its owner.
        on_failure: Called while the error is handled, for example to log it.
    """
    while True:
        try:
            await function()
            return
        except (Exception, asyncio.CancelledError) as ex:
            task = asyncio.current_task()
            assert task is not None
            # NOTE: if this task was not cancelled, the `CancelledError` comes from
            #   another task that the function awaited.
            if isinstance(ex, asyncio.CancelledError) and task.cancelling():
                raise
            on_failure()
        await asyncio.sleep(_RESTART_S)


def run_forever(
    function: Callable[[], Coroutine[Any, Any, None]],
    name: str,
    on_failure: Callable[[], None] | None = None,
) -> asyncio.Task[None]:
    """Start a task that calls a function again if it has raised an error.

    Args:
        function: Returns only if the task is no longer needed.
        name: Name of the task, to which the prefix ``falcon_channels`` is added.
        on_failure: Called after each error, before the function is called again.

    Returns:
        The task. The caller keeps it and cancels it.
    """

    def report() -> None:
        _logger.exception('task %r of a broker failed, and starts again', name)
        if on_failure is not None:
            on_failure()

    return start_task(restart_after_errors(function, report), name)
