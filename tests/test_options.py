"""Options: contradictions and values out of range are refused when they are given."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EndpointOptions
from falcon_channels import EventStreamOptions
from falcon_channels import NodeOptions
from falcon_channels import OptionsError
from falcon_channels import StreamWriterOptions


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'recovery': 'stream'}, 'needs history'),
        ({'recovery': 'latest'}, 'needs history'),
        ({'history_size': 1, 'slow_reader': 'latest'}, 'leaves gaps'),
        ({'history_size': 1, 'slow_reader': 'drop_oldest'}, 'leaves gaps'),
        ({'join_leave': 'user'}, 'needs presence'),
        ({'leave_grace_s': 1.0}, 'needs join_leave'),
        (
            {
                'presence': True,
                'join_leave': 'user',
                'presence_ttl_s': 5.0,
                'leave_grace_s': 5.0,
            },
            'leave_grace_s of 5.0 must be below presence_ttl_s of 5.0',
        ),
        (
            {'max_backlog_bytes': 10, 'max_publication_bytes': 11},
            'max_backlog_bytes of 10 is below max_publication_bytes of 11',
        ),
        ({'history_size': -1}, 'history_size is -1, but must be at least 0'),
        ({'history_size': 1.5}, 'must be a number'),
        ({'history_size': '5'}, 'must be a number'),
        ({'history_size': True}, 'must be a number'),
        ({'history_ttl_s': 0.0}, 'must be above 0'),
        ({'presence_ttl_s': float('nan')}, 'use None'),
        ({'history_ttl_s': float('inf')}, 'use None'),
        ({'recovery': 'maybe'}, "recovery is 'maybe', but must be one of"),
        ({'publishers': 'me'}, "publishers is 'me'"),
        ({'join_leave': 'on'}, "join_leave is 'on'"),
        ({'force_join_leave': True}, 'needs join_leave="connection"'),
        ({'history_size': 1, 'send_latest': True}, 'needs recovery="latest"'),
        ({'slow_reader': None}, 'slow_reader is None'),
    ],
)
def test_channel_options_are_refused(options: dict[str, Any], words: str) -> None:
    """Each contradiction is refused with both of its sides."""
    with pytest.raises(OptionsError, match=words):
        ChannelOptions(**options)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'max_connections': 0}, 'max_connections is 0'),
        ({'drain_batch': 0}, 'drain_batch is 0'),
        ({'linger_s': -1}, 'linger_s is -1'),
        ({'position_check_s': 0}, 'position_check_s is 0'),
        ({'max_message_bytes': '64k'}, 'must be a number'),
        (
            {'max_channel_bytes': 100, 'max_message_bytes': 100},
            'max_channel_bytes of 100 must be below max_message_bytes of 100',
        ),
        ({'max_batch_bytes': 0}, 'max_batch_bytes is 0'),
        ({'max_batch_bytes': 2**22}, 'at most 4193280.*: 4194304 is too much'),
        ({'max_message_bytes': 2**23}, 'at most 4193280.*: 8388608 is too much'),
    ],
)
def test_invalid_node_options_are_refused(options: dict[str, Any], words: str) -> None:
    """Limits for all channels are checked, too."""
    with pytest.raises(OptionsError, match=words):
        NodeOptions(**options)


def test_batch_has_room_for_the_largest_message() -> None:
    """A `max_batch_bytes` below `max_message_bytes` is raised to it."""
    assert 262_144 == NodeOptions().max_batch_bytes
    assert 500_000 == NodeOptions(max_message_bytes=500_000).max_batch_bytes


def test_batch_too_small_for_all_channels_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A warning names the options if a client could not return to its channels."""
    Channels(options=NodeOptions(max_channels_per_connection=256))
    assert '' == caplog.text
    Channels(options=NodeOptions(max_channels_per_connection=257))
    assert 'max_channels_per_connection of 257 channels' in caplog.text
    assert 'max_batch_bytes is 262144' in caplog.text


def test_server_that_refuses_allowed_batches_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A warning says at start that the server's limit is the lower one."""
    options = NodeOptions(max_batch_bytes=300_000)
    options.warn_of_small_server(None)
    options.warn_of_small_server(300_000)
    assert '' == caplog.text
    options.warn_of_small_server(299_999)
    assert '299999 bytes (--ws-max-size), but max_batch_bytes is 300000' in caplog.text


@pytest.mark.parametrize('limit', ['max_backlog_bytes', 'max_pending_bytes'])
def test_route_with_larger_publications_than_the_node_holds_is_refused(
    limit: str,
) -> None:
    """A publication that no connection could take is refused with its route."""
    channels = Channels(options=NodeOptions(**{limit: 70_000}))
    route = ChannelOptions(max_publication_bytes=70_001)
    with pytest.raises(OptionsError, match=f"70001 .*'rooms'.* {limit} of 70000"):
        channels.add_route('rooms', None, route)


def test_route_whose_clients_cannot_publish_the_largest_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A limit of publications that a client's messages cannot reach is logged."""
    channels = Channels()
    large = {'max_publication_bytes': 70_000}
    channels.add_route('news', None, ChannelOptions(**large))
    assert '' == caplog.text
    channels.add_route('rooms', None, ChannelOptions(publishers='anybody', **large))
    assert "route 'rooms' has max_publication_bytes of 70000" in caplog.text


@given(
    history_size=st.integers(-2, 3),
    recovery=st.sampled_from(['auto', 'stream', 'latest', 'off']),
    slow_reader=st.sampled_from(['close', 'drop_oldest', 'latest']),
    presence=st.booleans(),
    join_leave=st.sampled_from(['off', 'connection', 'user']),
    grace_s=st.sampled_from([0.0, 1.0, 100.0]),
    ttl_s=st.none() | st.floats(0.001, 1e9),
    meta_ttl_s=st.none() | st.floats(0.001, 1e9),
)
def test_accepted_channel_options_are_consistent(
    history_size: int,
    recovery: Any,
    slow_reader: Any,
    presence: bool,
    join_leave: Any,
    grace_s: float,
    ttl_s: float | None,
    meta_ttl_s: float | None,
) -> None:
    """Options that are accepted can be kept."""
    try:
        options = ChannelOptions(
            history_size=history_size,
            recovery=recovery,
            slow_reader=slow_reader,
            presence=presence,
            join_leave=join_leave,
            leave_grace_s=grace_s,
            history_ttl_s=ttl_s,
            meta_ttl_s=meta_ttl_s,
        )
    except OptionsError:
        return
    assert options.recovery_mode == 'off' or options.history_size > 0
    assert options.recovery_mode != 'stream' or options.slow_reader == 'close'
    assert options.join_leave != 'user' or options.presence
    assert options.meta_ttl_s is None or (
        options.history_ttl_s is not None
        and options.history_ttl_s <= options.meta_ttl_s
    )


def test_auto_recovery_follows_history() -> None:
    """Channels with history recover unless told otherwise."""
    assert 'off' == ChannelOptions().recovery_mode
    assert 'stream' == ChannelOptions(history_size=1).recovery_mode
    assert 'off' == ChannelOptions(history_size=1, recovery='off').recovery_mode


@pytest.mark.parametrize(
    ('kind', 'name', 'words'),
    [
        (ChannelOptions, 'history_sizes', "did you mean 'history_size'?"),
        (ChannelOptions, 'leave_grace', "did you mean 'leave_grace_s'?"),
        (ChannelOptions, 'publisher', "did you mean 'publishers'?"),
        (ChannelOptions, 'max_connections', 'NodeOptions has this option'),
        (
            ChannelOptions,
            'history',
            "did you mean 'history_size'? EventStreamOptions has this option",
        ),
        (NodeOptions, 'allowed_origin', "did you mean 'allowed_origins'?"),
        (NodeOptions, 'colour', 'it has allowed_origins, '),
        (EndpointOptions, 'ping_interval', "did you mean 'ping_interval_s'?"),
        (EventStreamOptions, 'keepalive', "did you mean 'keepalive_s'?"),
        (StreamWriterOptions, 'interval', "did you mean 'interval_s'?"),
    ],
)
def test_unknown_option_names_the_option_that_was_meant(
    kind: Any, name: str, words: str
) -> None:
    """A mistyped option raises TypeError, as for a function, and says what to write."""
    with pytest.raises(TypeError) as caught:
        kind(**{name: 1})
    assert f'{kind.__name__} has no option {name!r}: ' in str(caught.value)
    assert words in str(caught.value)


def test_option_without_a_name_is_refused() -> None:
    """Options have no order, so a value alone has no meaning."""
    kind: Any = ChannelOptions
    with pytest.raises(TypeError, match='takes its options by name'):
        kind(100)
