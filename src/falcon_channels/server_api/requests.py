"""Requests of the server API: how they are decoded, and how errors are answered.

A request is a Struct, which refuses unknown fields: an error is better than an option
that is ignored silently.
"""

from __future__ import annotations

import abc
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Mapping
import functools
import logging
from typing import Annotated
from typing import Any
from typing import ClassVar

import msgspec

from falcon_channels.checks import MAX_ID_CHARACTERS
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import CapabilityError
from falcon_channels.errors import ChannelFinishedError
from falcon_channels.errors import ChannelNameError
from falcon_channels.errors import ClosedError
from falcon_channels.errors import PayloadError
from falcon_channels.errors import PositionError
from falcon_channels.errors import PublicationTooLargeError
from falcon_channels.errors import TooManyUsersError
from falcon_channels.errors import UnknownChannelError
from falcon_channels.errors import UnsubscribedError
from falcon_channels.json_decoding import decode_base64
from falcon_channels.node import Node
from falcon_channels.protocol import codes
from falcon_channels.publication import Position

_logger = logging.getLogger('falcon_channels')

Offset = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
#: Text of limited length, such as an id, a key or a reason.
IdText = Annotated[str, msgspec.Meta(max_length=MAX_ID_CHARACTERS)]

#: A method: it gets a request, and returns the result in the form of JSON.
Method = Callable[[Any], Awaitable[dict[str, Any]]]


class ApiError(Exception):
    """The error with which a method answers.

    Attributes:
        code: Code of the table in docs/server_api.md.
        message: Text for the caller.
    """

    def __init__(self, error: codes.ReplyError, details: str = '') -> None:
        message = f'{error.message}: {details}' if details else error.message
        super().__init__(message)
        self.code = error.code
        self.message = message

    def to_media(self) -> dict[str, Any]:
        """Return ``{"code": 107, "message": "..."}``."""
        return {'code': self.code, 'message': self.message}


class ApiRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all requests."""

    #: Fields that are refused if they have a value, and the reasons.
    refused: ClassVar[Mapping[str, str]] = {}


#: The type of the request and the method, by name.
MethodTable = dict[str, tuple[type[ApiRequest], Method]]


class MethodGroup(abc.ABC):
    """Methods that belong together.

    Args:
        node: Node of this process.
    """

    def __init__(self, node: Node) -> None:
        self._node = node

    @abc.abstractmethod
    def table(self) -> MethodTable:
        """Return the methods by name."""


class StreamPosition(ApiRequest):
    """A position in a request."""

    offset: Offset = 0
    epoch: IdText = ''


class ChannelRequest(ApiRequest):
    """A request about one channel."""

    channel: str


#: Errors of the caller, besides those that have a code of their own.
_BAD_REQUEST = (ChannelNameError, PayloadError, PublicationTooLargeError, ValueError)


def decode_request(body: bytes | msgspec.Raw, request_type: type[Any]) -> Any:
    """Decode a request.

    Raises:
        ApiError: It is not JSON, or does not have this type.
    """
    try:
        return _decoder(request_type).decode(body)  # type: ignore[arg-type]  # classes are hashable
    except (msgspec.DecodeError, RecursionError, ValueError) as ex:
        raise ApiError(codes.BAD_REQUEST, str(ex)) from None


@functools.cache
def _decoder(request_type: type[Any]) -> msgspec.json.Decoder[Any]:
    # PERF: a decoder that is made once saves a third of the decoding of a small request
    #   (benchmarks/centrifugo.py).
    return msgspec.json.Decoder(request_type)


def as_api_error(name: str, ex: Exception) -> ApiError:
    """Return the error with which a method answers after an exception.

    PERF: a function that awaited the method would need a coroutine for each publication
    of a batch (benchmarks/centrifugo.py).

    Args:
        name: Name of the method, for the log.
        ex: The exception, which is being handled.
    """
    if isinstance(ex, ApiError):
        return ex
    if isinstance(ex, UnknownChannelError):
        return ApiError(codes.UNKNOWN_CHANNEL)
    if isinstance(ex, _BAD_REQUEST):
        return ApiError(codes.BAD_REQUEST, str(ex))
    if isinstance(ex, ChannelFinishedError):
        return ApiError(codes.NOT_AVAILABLE, 'the channel is finished')
    if isinstance(ex, PositionError):
        return ApiError(codes.UNRECOVERABLE_POSITION)
    if isinstance(ex, CapabilityError | TooManyUsersError):
        return ApiError(codes.NOT_AVAILABLE, str(ex))
    if isinstance(ex, BrokerUnavailableError | ClosedError | UnsubscribedError):
        _logger.warning('server API: %s failed: %s', name, ex)
    else:
        # NOTE: this is a defect. The caller gets an internal error. The traceback is in
        #   the log.
        _logger.exception('server API: %s failed', name)
    return ApiError(codes.INTERNAL)


def read_payload(data: Any, b64data: str) -> Any:
    """Return the data of a request: a JSON value, or bytes decoded from base64.

    Raises:
        ApiError: It is not base64.
    """
    if b64data:
        return _from_base64('b64data', b64data)
    # NOTE: the data is decoded and encoded again, once per request. This removes white
    #   space, and JSON that only some readers accept never reaches a client.
    return data


def read_value(name: str, value: Any, in_base64: str) -> Any:
    """Return a field that is a JSON value, or JSON in base64.

    Raises:
        ApiError: The field is in both forms, or is not JSON in base64.
    """
    if not in_base64:
        return value
    if value is not None:
        raise ApiError(codes.BAD_REQUEST, f'{name} and b64{name}: send one of them')
    return decode_request(_from_base64(f'b64{name}', in_base64), object)


def _from_base64(name: str, text: str) -> bytes:
    try:
        return decode_base64(text)
    except ValueError:
        raise ApiError(codes.BAD_REQUEST, f'{name} is not base64') from None


def read_position(position: StreamPosition | None) -> Position | None:
    """Return the position of a request, or ``None``."""
    return None if position is None else Position(position.offset, position.epoch)
