"""Tasks of brokers: named, held by their owners, and never dead in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Coroutine
import logging
from typing import Any
from typing import TypeVar

_logger = logging.getLogger('falcon_channels')

_T = TypeVar('_T')


def start_task(
    coroutine: Coroutine[Any, Any, _T],
    name: str,
    on_death: Callable[[], None] | None = None,
) -> asyncio.Task[_T]:
    """Start a task that ends only when it is cancelled.

    Args:
        coroutine: What it does.
        name: In words; ``falcon_channels`` is put before it.
        on_death: Called where it ended by an error, which is a defect of ours.
    """
    task = asyncio.create_task(coroutine, name=f'falcon_channels {name}')

    def report(task: asyncio.Task[_T]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        _logger.critical(
            'task %r of a broker died', task.get_name(), exc_info=task.exception()
        )
        if on_death is not None:
            on_death()

    task.add_done_callback(report)
    return task
