"""A broker whose calls are reported as operations."""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable
from typing import Any
from typing import cast

from falcon_channels.brokers.base import Broker
from falcon_channels.operations import Operation
from falcon_channels.operations import Operations

#: Methods that are reported, in the order of the contract.
TIMED_METHODS = (
    'publish',
    'subscribe',
    'unsubscribe',
    'history',
    'remove_history',
    'signal',
    'control',
    'add_presence',
    'remove_presence',
    'presence',
    'presence_stats',
    'has_user',
    'expire_presence',
    'revoke',
    'is_revoked',
)


def timed_broker(broker: Broker, operations: Operations) -> Broker:
    """Return a broker that passes every call to `broker` and reports it."""
    # NOTE: the methods are attributes of the object, which a type checker does not see.
    return cast('Broker', _TimedBroker(broker, operations))


class _TimedBroker:
    """See `timed_broker`.

    PERF: while nothing observes, each method is the one of the broker itself. A call
    then costs nothing more (benchmarks/monitoring.py).
    """

    def __init__(self, broker: Broker, operations: Operations) -> None:
        self._broker = broker
        self._operations = operations
        self.capabilities = broker.capabilities
        operations.on_wanted(self._choose)

    def _choose(self, wanted: bool) -> None:
        for name in TIMED_METHODS:
            method = getattr(self._broker, name)
            setattr(self, name, self._timed(name, method) if wanted else method)

    def _timed(
        self, name: str, method: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        operations = self._operations

        async def call(*args: Any, **options: Any) -> Any:
            with operations.time(Operation('broker', detail=name)):
                return await method(*args, **options)

        return call

    def __getattr__(self, name: str) -> Any:
        """Return another attribute of the broker."""
        return getattr(self._broker, name)
