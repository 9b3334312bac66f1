"""The registry of connections: find the connections of this process, also by user."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator

from falcon_channels.hub.connection import Connection


class ConnectionRegistry:
    """The connections of this process, by id and by user.

    Iteration copies nothing. The caller changes nothing meanwhile, and awaits nothing.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, Connection] = {}
        self._by_user: dict[str, dict[Connection, None]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._by_id.values())

    def add(self, connection: Connection) -> None:
        """Add a connection."""
        self._by_id[connection.id] = connection
        self._by_user.setdefault(connection.user, {})[connection] = None

    def discard(self, connection: Connection) -> bool:
        """Remove a connection; return whether it was there."""
        if self._by_id.pop(connection.id, None) is None:
            return False
        self._discard_of_user(connection, connection.user)
        return True

    def move(self, connection: Connection, before: str) -> bool:
        """Find a connection by its new user from now on.

        Args:
            connection: A connection whose user was set.
            before: Its user until then.

        Returns:
            Whether the connection is in the registry.
        """
        if connection.id not in self._by_id:
            return False
        self._discard_of_user(connection, before)
        self._by_user.setdefault(connection.user, {})[connection] = None
        return True

    def get(self, id: str) -> Connection | None:
        """Return the connection with an id, or ``None``."""
        return self._by_id.get(id)

    def all(self) -> list[Connection]:
        """Return a new list of all connections."""
        return list(self._by_id.values())

    @property
    def num_users(self) -> int:
        """How many users have connections here. Anonymous users count as one."""
        return len(self._by_user)

    def of_user(self, user: str) -> list[Connection]:
        """Return a new list of the connections of a user."""
        return list(self._by_user.get(user, ()))

    def iter_of_user(self, user: str) -> Iterable[Connection]:
        """Return the connections of a user to iterate over, as over all."""
        return self._by_user.get(user, ())

    def count_of_user(self, user: str) -> int:
        """Return how many connections a user has."""
        return len(self._by_user.get(user, ()))

    def _discard_of_user(self, connection: Connection, user: str) -> None:
        connections = self._by_user.get(user)
        if connections is not None:
            connections.pop(connection, None)
            if not connections:
                del self._by_user[user]
