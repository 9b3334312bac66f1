"""Which publications are sent as deltas, in both encodings."""

from __future__ import annotations

import json

from centrifuge.protocol import client_pb2 as sdk
from hypothesis import given
from hypothesis import strategies as st
import pytest
from support.deltas import DeltaReader

from falcon_channels.errors import ProtocolError
from falcon_channels.protocol import json_codec
from falcon_channels.protocol import protobuf_codec
from falcon_channels.protocol.deltas import DeltaPublication
from falcon_channels.protocol.deltas import last_publication
from falcon_channels.protocol.deltas import Patch
from falcon_channels.protocol.deltas import with_deltas
from falcon_channels.protocol.deltas import with_first_whole
from falcon_channels.publication import ChannelEnd
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Publication
from falcon_channels.publication import Signal

LONG = 'a long text that both payloads have in common'
JOIN = Signal('join', ClientInfo(user='ann', client='c-1'))


def publication(text: str, **fields: object) -> Publication:
    return Publication(data=json.dumps([text, LONG]).encode(), **fields)  # type: ignore[arg-type]


def in_json(item: Publication) -> dict[str, object]:
    return dict(json.loads(json_codec.encode_result_publication(item)))


def in_protobuf(item: Publication) -> sdk.Publication:
    frame = protobuf_codec.encode_publication('c', item)
    return sdk.Reply.FromString(frame[1 if frame[0] < 0x80 else 2 :]).push.pub


def are_deltas(*items: Publication, base: Publication | None = None) -> list[bool]:
    """Return which items are sent as deltas; both encodings must agree."""
    found = with_deltas(items, base)
    json_deltas = [in_json(item).get('delta', False) for item in found]
    assert json_deltas == [in_protobuf(item).delta for item in found]
    return [bool(delta) for delta in json_deltas]


def test_publication_after_another_is_a_delta() -> None:
    """The first publication is whole, and each following one is a delta."""
    items = [publication('a'), publication('b'), publication('c')]
    assert [False, True, True] == are_deltas(*items)
    assert [True, True, True] == are_deltas(*items, base=publication('0'))


def test_publication_without_delta_is_whole() -> None:
    """A publication with `delta=False` is sent whole, and is the next one's base."""
    items = [publication('a'), publication('b', delta=False), publication('c')]
    assert [False, False, True] == are_deltas(*items)


def test_delta_that_is_not_shorter_is_sent_whole() -> None:
    """A payload is sent whole if its delta is not shorter."""
    short = Publication(data=b'"x"')
    assert [False, False, False] == are_deltas(
        publication('a'), short, publication('b')
    )


def test_binary_publication_is_whole_and_no_base() -> None:
    """A binary publication is sent whole, and so is the one after it."""
    binary = Publication(data=publication('b').data, binary=True)
    found = with_deltas([publication('a'), binary, publication('c')], None)
    assert [False, False, False] == [in_protobuf(item).delta for item in found]
    with pytest.raises(ProtocolError, match='binary'):
        in_json(found[1])


def test_delta_that_is_not_utf_8_is_sent_whole_in_json() -> None:
    """A JSON string cannot hold any bytes, so that the payload is sent whole."""

    class Broken(Patch):
        def delta(self) -> bytes:
            return b'\xff'

    item = publication('b')
    broken = DeltaPublication(data=item.data, patch=Broken(b'', b''))
    assert {'data': item.data.decode()} == in_json(broken)


def test_payload_that_is_not_utf_8_is_refused_in_json() -> None:
    """A payload that is not text is no JSON, and is not sent to a JSON client."""
    (item,) = with_deltas([Publication(data=b'"\xff"')], None)
    with pytest.raises(ProtocolError, match='not text'):
        in_json(item)


def test_other_fields_of_a_delta_are_those_of_the_publication() -> None:
    """A delta has the offset, tags, time and publisher of its publication."""
    item = publication('b', offset=7, time_ms=5, tags={'k': 'v'}, info=JOIN.info)
    (found,) = with_deltas([item], publication('a'))
    fields = in_json(found)
    assert in_json(item) | {'data': fields['data'], 'delta': True} == fields
    pub = in_protobuf(found)
    assert (7, 5, {'k': 'v'}, 'ann') == (pub.offset, pub.time, pub.tags, pub.info.user)


def test_form_for_deltas_has_every_field_of_a_publication() -> None:
    """No field of a publication is lost in the form for subscriptions with delta."""
    item = publication(
        'b',
        offset=7,
        binary=True,
        time_ms=5,
        tags={'k': 'v'},
        info=JOIN.info,
        end=ChannelEnd('failed'),
        delta=False,
        trace='00-a-b-01',
    )
    (found,) = with_deltas([item], None)
    defaults = Publication(data=b'')
    for name in Publication.__struct_fields__:
        assert getattr(item, name) == getattr(found, name)
        assert getattr(item, name) != getattr(defaults, name)


def test_joins_and_leaves_are_unchanged_and_do_not_end_a_series() -> None:
    """A join between two publications stays, and the second one is a delta."""
    found = with_deltas([publication('a'), JOIN, publication('b')], None)
    assert JOIN is found[1]
    assert in_json(found[2])['delta']  # type: ignore[arg-type]
    assert last_publication([publication('a'), JOIN]) == publication('a')
    assert last_publication([JOIN]) is None


def test_items_for_clients_without_the_base_differ_in_the_first_one() -> None:
    """Only the first publication differs for clients that do not have the base."""
    found = with_deltas([JOIN, publication('a'), publication('b')], publication('0'))
    first_whole = with_first_whole(found)
    assert first_whole == with_deltas([JOIN, publication('a'), publication('b')], None)
    assert found[2] is first_whole[2]


@given(texts=st.lists(st.text(max_size=80), max_size=8), tail=st.text(max_size=40))
def test_clients_of_both_encodings_restore_every_payload(
    texts: list[str], tail: str
) -> None:
    """Both kinds of clients restore the exact bytes, also spaces and line breaks."""
    items = [
        Publication(
            data=json.dumps(
                [text, tail], ensure_ascii=False, indent=len(text) % 3
            ).encode()
        )
        for text in texts
    ]
    json_reader, protobuf_reader = DeltaReader(), DeltaReader()
    for item in with_deltas(items, None):
        json_reader.read(in_json(item))
        pub = in_protobuf(item)
        protobuf_reader.take(pub.data, pub.delta)
    assert [item.data for item in items] == json_reader.payloads
    assert [item.data for item in items] == protobuf_reader.payloads
