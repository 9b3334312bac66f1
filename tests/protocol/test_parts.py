"""Publications that were encoded before make the same replies as others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
import pytest

from falcon_channels.errors import ProtocolError
from falcon_channels.protocol import json_codec
from falcon_channels.protocol import protobuf_codec
from falcon_channels.protocol.codec import Codec
from falcon_channels.protocol.messages import ConnectResult
from falcon_channels.protocol.messages import EncodedPublications
from falcon_channels.protocol.messages import HistoryResult
from falcon_channels.protocol.messages import Result
from falcon_channels.protocol.messages import SubscribeResult
from falcon_channels.publication import ClientInfo
from falcon_channels.publication import Publication

JSON = st.sampled_from([b'{"a":\n[1,2]}', b'"\xc3\xbc"', b'0', b'null', b'[]', b'{}'])
INFOS = st.builds(
    ClientInfo,
    user=st.text(max_size=5),
    client=st.text(max_size=5),
    conn_info=st.none() | JSON,
    chan_info=st.none() | JSON,
)
# NOTE: at most one tag: Protobuf says nothing about the order of a map.
FIELDS = {
    'offset': st.integers(0, 2**63 - 1),
    'time_ms': st.integers(0, 2**50),
    'tags': st.none()
    | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=1),
    'info': st.none() | INFOS,
}
TEXTS = st.lists(st.builds(Publication, data=JSON, **FIELDS), max_size=5)
BINARY = st.lists(
    st.builds(
        Publication, data=st.binary(max_size=300), binary=st.just(True), **FIELDS
    ),
    max_size=5,
)


def results(publications: list[Publication] | EncodedPublications) -> list[Result]:
    subscribe = SubscribeResult(
        recoverable=True,
        epoch='e',
        offset=7,
        publications=publications,
        recovered=True,
        was_recovering=True,
        positioned=True,
        expires=True,
        ttl=60,
        data=b'{"a":1}',
    )
    return [
        subscribe,
        SubscribeResult(publications=publications),
        HistoryResult(publications=publications, epoch='e', offset=9),
        ConnectResult(client='c', subs={'rooms:1': subscribe}, ping=25),
    ]


def check(codec: Codec, publications: list[Publication]) -> None:
    parts = EncodedPublications(map(codec.encode_result_publication, publications))
    for plain, prepared in zip(results(publications), results(parts), strict=True):
        assert codec.encode_reply(3, plain) == codec.encode_reply(3, prepared)


@given(TEXTS)
def test_json_reply_of_encoded_publications_has_the_same_bytes(
    publications: list[Publication],
) -> None:
    """In JSON a reply of parts has the bytes of one that is encoded as a whole."""
    check(json_codec, publications)


@given(TEXTS, BINARY)
def test_protobuf_reply_of_encoded_publications_has_the_same_bytes(
    texts: list[Publication], binary: list[Publication]
) -> None:
    """In Protobuf as well, binary payloads included."""
    check(protobuf_codec, [*texts, *binary])


def test_binary_publication_is_refused_in_json_results() -> None:
    """A client that speaks JSON cannot get a binary publication in any way."""
    publication = Publication(data=b'\xff', binary=True, offset=1)
    with pytest.raises(ProtocolError) as caught:
        json_codec.encode_result_publication(publication)
    assert 3506 == caught.value.code
    with pytest.raises(ProtocolError) as caught:
        json_codec.encode_reply(1, SubscribeResult(publications=[publication]))
    assert 3506 == caught.value.code
