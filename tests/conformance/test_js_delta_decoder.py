"""The decoder of the official JavaScript SDK restores any payloads, byte by byte."""

from __future__ import annotations

import base64
import json
from pathlib import Path
import subprocess

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

from falcon_channels.protocol import protobuf_codec
from falcon_channels.protocol.deltas import with_deltas
from falcon_channels.protocol.messages import ConnectResult
from falcon_channels.protocol.messages import SubscribeResult
from falcon_channels.publication import Publication

FOLDER = Path(__file__).with_name('js')

pytestmark = pytest.mark.timeout(120)

_texts = st.lists(
    st.sampled_from(['price', '"id":7,', 'ünïcödé', '€', '😀', 'x' * 40, '{', '7'])
    | st.text(max_size=9),
    max_size=40,
).map(''.join)


def restore(items: list[Publication]) -> tuple[list[bytes], int]:
    """Return the payloads that the SDK restores, and how many came as deltas."""
    codec = protobuf_codec
    replies = [
        codec.encode_reply(1, ConnectResult(client='c-1')),
        codec.encode_reply(2, SubscribeResult(delta=True)),
    ]
    pushes = [codec.encode_publication('c', item) for item in with_deltas(items, None)]
    frames = {
        name: [base64.b64encode(frame).decode() for frame in frames]
        for name, frames in (('replies', replies), ('pushes', pushes))
    }
    done = subprocess.run(
        ['node', 'deltas.mjs'],
        cwd=FOLDER,
        input=json.dumps(frames),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    result = json.loads(done.stdout)
    payloads = [base64.b64decode(payload) for payload in result['payloads']]
    return payloads, result['numDeltaPayloads']


@settings(max_examples=8, deadline=None)
@given(texts=st.lists(_texts, min_size=1, max_size=300))
def test_javascript_sdk_restores_any_payloads(texts: list[str]) -> None:
    """The SDK restores every payload from what the server sends."""
    items = [Publication(data=text.encode() or b'""') for text in texts]
    # Each payload follows a similar one, so that there are deltas.
    items = [
        item
        for before in items
        for item in (before, Publication(data=before.data[::2] + before.data))
    ]
    payloads, num_deltas = restore(items)
    assert [item.data for item in items] == payloads
    assert num_deltas == sum(
        item.patch is not None and item.patch.delta() is not None
        for item in with_deltas(items, None)
    )
