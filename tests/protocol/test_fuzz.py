"""The fuzzer of both decoders finds nothing in a short run."""

from __future__ import annotations

from types import ModuleType

import pytest

from falcon_channels.protocol import json_codec
from falcon_channels.protocol import protobuf_codec
from protocol import fuzz


@pytest.mark.parametrize('codec', [json_codec, protobuf_codec])
def test_short_fuzz_raises_only_protocol_errors(codec: ModuleType) -> None:
    """Thousands of changed inputs raise nothing but ProtocolError."""
    assert fuzz.run(codec, count=3000, seed=1) > 0


def test_fuzz_fails_if_a_decoder_raises_another_error() -> None:
    """The fuzzer fails where a decoder lets another error escape."""

    class Broken(ModuleType):
        decode_connect = decode_emulation = staticmethod(int)

    with pytest.raises(ValueError):
        fuzz.check(Broken('broken'), b'x')
