"""The encodings of plain event streams, and their event ids."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st
import msgspec
import pytest

from falcon_channels import PayloadError
from falcon_channels.protocol.event_codec import decode_positions
from falcon_channels.protocol.event_codec import encode_media
from falcon_channels.protocol.event_codec import encode_position
from falcon_channels.protocol.event_codec import encode_positions
from falcon_channels.protocol.event_codec import EventCodec
from falcon_channels.protocol.event_codec import EventLines
from falcon_channels.protocol.event_codec import Names
from falcon_channels.protocol.event_codec import PartsCodec
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Position
from falcon_channels.publication import Publication
from falcon_channels.publication import Signal

CHANNELS = st.text(
    st.characters(exclude_categories=['Cs', 'Cc']), min_size=1, max_size=20
)
POSITIONS = st.builds(
    Position,
    st.integers(0, 10**15 - 1),
    st.text(st.characters(codec='ascii', categories=['L', 'N', 'P', 'S']), min_size=1),
)


def parse(stream: bytes) -> list[dict[str, str]]:
    """Return the fields of each event, as WHATWG HTML section 9.2.6 says."""
    events = []
    fields: dict[str, str] = {}
    for line in re.split('\r\n|\n|\r', stream.decode()):
        name, _, value = line.partition(':')
        value = value.removeprefix(' ')
        if not line:
            if fields:
                events.append(fields)
            fields = {}
        elif name == 'data' and 'data' in fields:
            fields['data'] += '\n' + value
        else:
            assert name in ('data', 'event', 'id')
            assert name not in fields
            fields[name] = value
    assert {} == fields
    return events


@given(data=st.text(), name=st.text(), as_json=st.booleans())
def test_any_text_and_event_name_make_one_event(
    data: str, name: str, as_json: bool
) -> None:
    """No payload and no tag begins another field or another event."""
    publication = Publication(
        data=msgspec.json.encode(data), offset=7, tags={'kind': name}
    )
    codec = EventCodec(EventLines(Names(tag='kind'), as_json))
    [event] = codec.encode_items('a', [publication], 'x1')
    [fields] = parse(event)
    expected = data.replace('\r\n', '\n').replace('\r', '\n')
    assert (data if as_json else expected) == (
        json.loads(fields['data']) if as_json else fields['data']
    )
    assert '7:x1' == fields['id']
    one_line = re.sub('[\r\n\0]', ' ', name).removeprefix(' ')
    assert one_line == fields.get('event', '').removeprefix(' ')


@given(st.dictionaries(CHANNELS, POSITIONS, min_size=1, max_size=5))
def test_event_id_returns_the_positions_that_it_was_made_of(
    positions: dict[str, Position],
) -> None:
    """An id is one line of ASCII, and has the position of each channel."""
    event_id = encode_positions(positions)
    assert event_id.isascii()
    assert event_id.isprintable()
    assert positions == decode_positions(event_id, positions.keys())
    assert {} == decode_positions(event_id, [])
    name, position = next(iter(positions.items()))
    if '=' not in position.epoch:
        assert {name: position} == decode_positions(encode_position(position), [name])


@given(st.text(), st.lists(CHANNELS, min_size=1, max_size=3))
def test_any_event_id_has_positions_of_the_named_channels_or_none(
    text: str, channels: list[str]
) -> None:
    """An id that a client made up raises no error and adds no channel."""
    found = decode_positions(text, channels)
    assert found is None or found.keys() <= set(channels)


@pytest.mark.parametrize(
    'text',
    ['', 'x', ':x', '-1:x', '1.5:x', '\u0661:x', '9' * 16 + ':x', 'a=', 'a=b=1:x'],
)
def test_malformed_event_id_has_no_positions(text: str) -> None:
    """An offset has one to fifteen digits."""
    assert None is decode_positions(text, ['a'])


def test_event_id_without_a_name_belongs_to_the_only_channel() -> None:
    """In a stream of several channels, such an id could belong to any of them."""
    assert {'a': Position(7, 'x')} == decode_positions('7:x', ['a'])
    assert None is decode_positions('7:x', ['a', 'b'])


@pytest.mark.parametrize(
    'codec',
    [
        EventCodec(EventLines(Names(), False)),
        PartsCodec(EventLines(Names(), False).encode),
        PartsCodec(encode_media),
    ],
)
def test_joins_are_left_out_and_binary_publications_are_refused(
    codec: EventCodec | PartsCodec,
) -> None:
    """A stream has publications only, and they are text."""
    info = ClientInfo(user='ann', client='c')
    assert [] == codec.encode_items('a', [Signal('join', info)], 'x')
    with pytest.raises(PayloadError, match='binary'):
        codec.encode_items('a', [Publication(data=b'\xff', binary=True)], 'x')


def test_publication_without_history_has_no_id() -> None:
    """A client keeps its last id if a publication has no position."""
    [event] = EventCodec(EventLines(Names((('a', 'news'),)), True)).encode_items(
        'a', [Publication(data=b'"hi"')], ''
    )
    assert b'event: news\ndata: "hi"\n\n' == event


def test_poll_has_the_sender_and_the_tags_of_a_publication() -> None:
    """Each item has the facts that a JSON client of a WebSocket gets."""
    publication = Publication(
        data=b'1', offset=3, tags={'a': 'b'}, info=ClientInfo(user='ann', client='c')
    )
    [part] = PartsCodec(encode_media).encode_items('room', [publication], 'x')
    assert ('room', Position(3, 'x')) == (part.channel, part.position)
    assert json.loads(part.content) == {
        'channel': 'room',
        'data': 1,
        'offset': 3,
        'tags': {'a': 'b'},
        'info': {'user': 'ann', 'client': 'c'},
    }
