"""Throw bytes at both decoders; nothing but `ProtocolError` may come out.

    python -m tests.protocol.fuzz --seconds 60 --seed 1

Grey-box: an input that reaches a new line of the decoders joins the corpus and is
changed further. A failing input is printed and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
from types import FrameType
from types import ModuleType
from typing import Any

from falcon_channels.errors import ProtocolError
from falcon_channels.protocol import json_codec
from falcon_channels.protocol import protobuf_codec
from falcon_channels.protocol.messages import Command
from falcon_channels.protocol.messages import PublishRequest
from falcon_channels.publication import Publication

SEEDS: dict[ModuleType, list[bytes]] = {
    json_codec: [
        b'{}',
        (
            b'{"id":1,"connect":{"token":"t","data":{"a":[1,2.5e3,null]},"name":"js",'
            b'"subs":{"news":{"recover":true,"offset":3,"epoch":"x"}}}}'
        ),
        b'{"id":2,"subscribe":{"channel":"a","flag":1,"data":"\\u00e9\\ud83d\\ude00"}}',
        (
            b'{"id":3,"publish":{"channel":"a","data":{"text":"\\"hi\\"\\n"}}}\n'
            b'{"id":4,"history":{"channel":"a","limit":-1,"since":{"offset":1}}}\n'
        ),
        b'{"send":{"data":true}}',
        b'{"id":5,"rpc":{"method":"m","data":[[[[[]]]]]}}',
        b'{"id":6,"sub_refresh":{"channel":"a","token":"t"}}',
    ],
    protobuf_codec: [
        b'\x00',
        b'\x0a\x08\x01\x22\x06\x0a\x01t\x22\x01n',
        b'\x13\x08\x02\x2a\x0f\x0a\x01a\x18\x01\x32\x01x\x38\x05\x42\x02{}',
        b'\x0a\x08\x03\x3a\x06\x0a\x01a\x12\x01\x31\x00',
        b'\x0d\x08\x04\x52\x09\x0a\x01a\x38\x01\x42\x02\x08\x01',
    ],
}
TOKENS = [
    *(b'{', b'}', b'[', b']', b'"', b':', b',', b'\n', b'\\', b'\\u', b'\\ud800'),
    *(b'null', b'true', b'NaN', b'-Infinity', b'1e999', b'9' * 400, b'0.1', b'-0'),
    *(b'"id"', b'"data"', b'"connect"', b'"publish"', b'"channel"', b'"subs"'),
    *(b'\xff', b'\xed\xa0\x80', b'\xc0\x80', b'\x80' * 6, b'\x00', b'[' * 64),
]


def check(codec: ModuleType, data: bytes) -> None:
    """Decode `data` in every way; raise `AssertionError` where a rule is broken."""
    for decode in (codec.decode_connect, codec.decode_emulation):
        with contextlib.suppress(ProtocolError):
            decode(data)
    try:
        commands: list[Command] = list(codec.decode_commands(data))
    except ProtocolError:
        return
    assert commands
    for command in commands:
        assert 0 <= command.id < 2**32
        request = command.request
        if codec is json_codec and isinstance(request, PublishRequest) and request.data:
            publication = Publication(data=request.data)
            publication.value()
            codec.encode_publication('channel', publication)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Return `data` with a few small changes."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(changed))
        end = min(len(changed), at + chance.randint(0, 8))
        match chance.randint(0, 4):
            case 0:
                changed[at:at] = chance.choice(TOKENS)
            case 1:
                changed[at:end] = b''
            case 2:
                changed[at:end] = chance.randbytes(end - at)
            case 3:
                changed[at:at] = changed[at:end] * chance.randint(1, 3)
            case _:
                changed[at:end] = chance.choice(TOKENS)
    return bytes(changed[:4096])


class Coverage:
    """Which lines of the codecs were ever reached."""

    def __init__(self) -> None:
        self.lines: set[tuple[str, int]] = set()

    def trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        if 'falcon_channels/protocol' not in name:
            return None
        if event == 'line':
            self.lines.add((name, frame.f_lineno))
        return self.trace

    def reaches_more(self, codec: ModuleType, data: bytes) -> bool:
        before = len(self.lines)
        sys.settrace(self.trace)
        try:
            check(codec, data)
        finally:
            sys.settrace(None)
        return len(self.lines) > before


def run(
    codec: ModuleType, *, seed: int, seconds: float = 3600.0, count: int = 10**9
) -> int:
    """Fuzz one decoder for a time or a number of inputs; return that number."""
    chance = random.Random(seed)
    coverage = Coverage()
    corpus = list(SEEDS[codec])
    deadline = time.monotonic() + seconds
    done = 0
    while done < count and time.monotonic() < deadline:
        data = mutate(chance.choice(corpus), chance)
        done += 1
        try:
            if coverage.reaches_more(codec, data):
                corpus.append(data)
        except BaseException:
            print(f'{codec.__name__} fails on {data!r}')
            raise
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seconds', type=float, default=60.0)
    parser.add_argument('--seed', type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f'seed {arguments.seed}')
    for codec in (json_codec, protobuf_codec):
        count = run(codec, seed=arguments.seed, seconds=arguments.seconds / 2)
        print(f'{codec.__name__}: {count} inputs, all well')


if __name__ == '__main__':
    main()
