"""The routes in the database, for publishes from SQL.

Several apps, and several versions of an app, can use one schema. A process therefore
never removes the routes of others:

1. When it starts, and when it adds a route, it stores its routes. If the same template
   is already stored, its settings are replaced.
2. From then on it renews its routes. This changes no settings. Otherwise the processes
   of an earlier version would bring the earlier settings back.
3. The sweep removes a route that no process has renewed for seven days.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Sequence
import json
from typing import Any

from falcon_channels.brokers.background_tasks import run_forever
from falcon_channels.brokers.base import RouteSettings
from falcon_channels.brokers.milliseconds import to_ms
from falcon_channels.burst_log import BurstLog
from falcon_channels.errors import BrokerUnavailableError

#: Seconds between two renewals.
_RENEWAL_S = 600.0
#: Seconds before the routes are stored again, if the store was not available.
_RETRY_S = 5.0


class StoredRoutes:
    """Stores the routes of a process, and renews them.

    Args:
        query: Executes a query with values.
        schema: Name of the schema.
        trusted: Whether a fail-over never loses an acknowledged write.
    """

    def __init__(
        self, query: Callable[..., Awaitable[object]], schema: str, trusted: bool
    ) -> None:
        self._query = query
        self._schema = schema
        self._trusted = trusted
        self._routes: Sequence[RouteSettings] = ()
        #: Set if there are routes that are not stored.
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._errors = BurstLog()

    def replace(self, routes: Sequence[RouteSettings]) -> None:
        """Replace the routes of this process; they are stored soon after `start`."""
        self._routes = routes
        self._changed.set()

    async def start(self) -> None:
        """Store the routes, and renew them until `close`.

        Raises:
            BrokerUnavailableError: The routes are not stored.
        """
        await self._store()
        self._task = run_forever(self._run, 'postgres routes')

    async def close(self) -> None:
        """Stop renewing the routes. They stay in the database for seven days."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_RENEWAL_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
            try:
                await (self._store() if self._changed.is_set() else self._renew())
            except BrokerUnavailableError as ex:
                self._errors.warning(
                    'cannot store the routes for publishes from SQL: %s', ex
                )
                await asyncio.sleep(_RETRY_S)

    async def _store(self) -> None:
        self._changed.clear()
        try:
            await self._query(
                f'SELECT {self._schema}.set_routes(%s, %s::jsonb)',
                self._trusted,
                self._rows(),
            )
        except BaseException:
            self._changed.set()
            raise

    async def _renew(self) -> None:
        await self._query(
            f'SELECT {self._schema}.renew_routes(%s::jsonb)', self._rows()
        )

    def _rows(self) -> str:
        rows: list[tuple[Any, ...]] = [
            (
                *(route.template, route.prefix, route.pattern, route.rank),
                route.log.size,
                to_ms(route.log.ttl_s) or -1,
                to_ms(route.log.meta_ttl_s) or -1,
                to_ms(route.log.idempotency_ttl_s),
                route.max_publication_bytes,
            )
            for route in self._routes
        ]
        return json.dumps(rows)
