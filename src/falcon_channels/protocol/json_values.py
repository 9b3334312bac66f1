"""Write values of the application as JSON, and refuse those that JSON cannot hold."""

from __future__ import annotations

import json
from typing import Any

import msgspec

#: What `encode_json` raises. msgspec raises most of these, for values of other types.
NOT_JSON = (TypeError, ValueError, OverflowError, RecursionError)

_encode = msgspec.json.Encoder().encode
_FINITE = json.JSONEncoder(allow_nan=False, ensure_ascii=False)


def encode_json(value: Any) -> bytes:
    """Return a value as JSON text in UTF-8.

    Raises:
        TypeError, ValueError, OverflowError, RecursionError: It cannot be written.
    """
    text = _encode(value)
    # NOTE: msgspec writes NaN and infinity as null. A client would receive a value that
    #   the application never sent.
    # PERF: only a text with null can hide them. Others cost a search for four bytes.
    if b'null' in text:
        _FINITE.encode(msgspec.to_builtins(value, str_keys=True))
    return text
