"""The background tasks of a hub: start them, restart them after errors, end them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Iterable
from contextvars import Context
from functools import partial
import logging
from typing import Any

from falcon_channels.brokers.background_tasks import restart_after_errors
from falcon_channels.hub.connection import Connection
from falcon_channels.metrics import Counters
from falcon_channels.protocol.codes import DISCONNECT_INTERNAL

_logger = logging.getLogger('falcon_channels')

#: How long `finish_graceful` waits for responders at the end of subscriptions.
_GRACEFUL_TIMEOUT_S = 5.0
#: How long `cancel` waits for the end of tasks.
_CANCEL_TIMEOUT_S = 5.0


class Tasks:
    """The background tasks of a hub.

    Args:
        counters: Counters of the hub. Failed tasks are counted.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._tasks: set[asyncio.Task[Any]] = set()
        self._graceful: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def start(self) -> None:
        """Allow tasks in the running event loop."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Refuse new tasks from now on. The caller then ends the others."""
        self._closed = True

    async def finish_graceful(self) -> None:
        """Wait a few seconds for graceful tasks, such as ``on_disconnect``."""
        if self._graceful:
            await asyncio.wait(list(self._graceful), timeout=_GRACEFUL_TIMEOUT_S)

    async def cancel(self, others: Iterable[asyncio.Task[Any]]) -> None:
        """Cancel all tasks, and other tasks; wait a few seconds for their end."""
        tasks = [*self._tasks, *others]
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _, pending = await asyncio.wait(tasks, timeout=_CANCEL_TIMEOUT_S)
        for task in pending:
            # NOTE: code of the application can ignore a cancellation. The process must
            #   end nevertheless.
            _logger.error(
                'task %r was cancelled, but still runs after %.0f s',
                task.get_name(),
                _CANCEL_TIMEOUT_S,
            )

    def spawn(
        self,
        coroutine: Coroutine[Any, Any, Any],
        name: str,
        graceful: bool = False,
        connection: Connection | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any] | None:
        """Run a task.

        If it fails, the error is logged and counted. At most one connection ends.

        Args:
            coroutine: The coroutine to run.
            name: Name of the task in logs.
            graceful: Whether `finish_graceful` waits for the end of the task.
            connection: Connection that the task works for, and that is closed if the
                task fails. Its client may otherwise wait for something that never
                arrives.
            context: Context variables of the task: `Connection.context` if the task
                calls responders, else ``None`` for an empty context.

        Returns:
            The task, or ``None`` if the hub is closed or has not started.
        """
        if self._closed or self._loop is None:
            coroutine.close()
            return None
        # NOTE: the caller may be a request of any user. The task must not see the
        #   context variables of this request, or keep them in memory.
        # NOTE: if the loop has an eager task factory, its `create_task` would begin the
        #   task at once. This is not possible in the context of the caller.
        task = asyncio.Task(
            coroutine,
            loop=self._loop,
            name=f'falcon_channels {name}',
            context=Context() if context is None else context,
        )
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_task_done, connection))
        if graceful:
            self._graceful.add(task)
        return task

    def _on_task_done(
        self, connection: Connection | None, task: asyncio.Task[Any]
    ) -> None:
        self._tasks.discard(task)
        self._graceful.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        self._counters.task_errors += 1
        _logger.error('task %r failed', task.get_name(), exc_info=task.exception())
        if connection is not None:
            connection.disconnect(*DISCONNECT_INTERNAL)

    def run_forever(
        self, function: Callable[[], Coroutine[Any, Any, None]], name: str
    ) -> None:
        """Run a coroutine function as a task; start it again after an error.

        Args:
            function: Runs for as long as the hub.
            name: Name of the task in logs.
        """

        def report() -> None:
            self._counters.task_errors += 1
            _logger.exception('%s failed, and starts again', name)

        self.spawn(restart_after_errors(function, report), name)
