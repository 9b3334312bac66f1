"""The registry of connections finds each connection by its id and by its user."""

from __future__ import annotations

from falcon_channels import Channels
from falcon_channels.hub.connection_registry import ConnectionRegistry
from falcon_channels.testing import SimulatedClient


def test_connections_of_a_user_are_found_until_they_are_discarded() -> None:
    """A user is counted for as long as the registry has a connection of the user."""
    channels = Channels()
    registry = ConnectionRegistry()
    first, second = (SimulatedClient(channels, user='ann').connection for _ in range(2))
    registry.add(first)
    registry.add(second)
    assert (2, 1) == (len(registry), registry.num_users)
    assert registry.all() == [first, second] == registry.of_user('ann')
    assert registry.discard(first)
    assert [second] == list(registry) == list(registry.iter_of_user('ann'))
    assert (None, second) == (registry.get(first.id), registry.get(second.id))
    assert registry.discard(second)
    assert (0, 0, 0) == (
        len(registry),
        registry.num_users,
        registry.count_of_user('ann'),
    )


def test_connection_that_moved_is_found_by_its_new_user_only() -> None:
    """After `move`, the former user has no connection, and is not counted."""
    registry = ConnectionRegistry()
    connection = SimulatedClient(Channels()).connection
    registry.add(connection)
    connection.user = 'ann'
    assert registry.move(connection, before='')
    assert ([connection], []) == (registry.of_user('ann'), registry.of_user(''))
    assert 1 == registry.num_users


def test_connection_that_was_not_added_changes_no_other_connection() -> None:
    """To move or discard an unknown connection does nothing, and says so."""
    channels = Channels()
    registry = ConnectionRegistry()
    known, unknown = (
        SimulatedClient(channels, user='ann').connection for _ in range(2)
    )
    registry.add(known)
    assert not registry.move(unknown, before='ann')
    assert not registry.discard(unknown)
    assert registry.all() == [known] == registry.of_user('ann')
