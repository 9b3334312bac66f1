"""Client of the server API, shared by the commands: arguments, requests, output."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import http.client
import ipaddress
import os
from pathlib import Path
import sys
from typing import Any
from urllib.parse import SplitResult
from urllib.parse import urlsplit

import msgspec

from falcon_channels.checks import check_duration
from falcon_channels.checks import MAX_DURATION_S

KEY_VARIABLE = 'FALCON_CHANNELS_API_KEY'
URL_VARIABLE = 'FALCON_CHANNELS_API_URL'
DEFAULT_URL = 'http://127.0.0.1:8000/api'

# SECURITY: maximum size of an answer, so that a hostile server cannot fill the memory.
_MAX_ANSWER_BYTES = 64 * 1024 * 1024


#: Largest whole number that the server API accepts, such as a version.
_MAX_WHOLE_NUMBER = 2**63 - 1

#: HTTP statuses of a proxy whose server is restarting.
_UNREACHABLE = (502, 503, 504)


class CommandError(Exception):
    """A command failed; the message is for its user."""


#: What to do if another program answers.
_NO_API_HINT = (
    'call channels.add_api(app, keys=...) in the app, and give its address with --url '
    f'or {URL_VARIABLE}'
)

#: What to do after an error of the API, by its code.
_HINTS = {102: 'check the name, or add a route for it with channels.add_route'}


class UnreachableError(CommandError):
    """The server did not answer."""


class ApiCallError(CommandError):
    """The API answered with an error.

    Attributes:
        code: Error code, as in the table of docs/server_api.md.
    """

    def __init__(self, code: int, message: str) -> None:
        hint = _HINTS.get(code)
        super().__init__(f'error {code}: {message}' + (f'; {hint}' if hint else ''))
        self.code = code


def add_api_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that all commands share."""
    api = parser.add_argument_group('the server API')
    api.add_argument(
        '--url',
        help=f'URL of the server API (default: the environment variable '
        f'{URL_VARIABLE}, or {DEFAULT_URL})',
    )
    api.add_argument(
        '--key-file',
        type=Path,
        metavar='FILE',
        help=f'file with the key, instead of the environment variable {KEY_VARIABLE}',
    )
    api.add_argument(
        '--timeout-s',
        type=duration,
        default=10.0,
        help='seconds to wait for an answer',
    )


def duration(text: str) -> float:
    """Convert an argument to a number of seconds.

    Raises:
        argparse.ArgumentTypeError: It is not a number, or out of range.
    """
    return _duration(text, zero=False)


def duration_or_zero(text: str) -> float:
    """Convert an argument to a number of seconds, of which 0 is one.

    Raises:
        argparse.ArgumentTypeError: It is not a number, or out of range.
    """
    return _duration(text, zero=True)


def _duration(text: str, *, zero: bool) -> float:
    try:
        return check_duration('it', float(text), zero=zero)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r:.80} is not a number of seconds '
            f'{"from 0" if zero else "above 0 and up"} to {MAX_DURATION_S:.0f}'
        ) from None


def whole_number(lowest: int) -> Callable[[str], int]:
    """Return a type of arguments: whole numbers from `lowest`.

    NOTE: argparse prints the name of the function if it raises `ValueError`.
    """

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if not lowest <= value <= _MAX_WHOLE_NUMBER:
            raise argparse.ArgumentTypeError(
                f'{text!r:.80} is not a whole number from {lowest} to '
                f'{_MAX_WHOLE_NUMBER}'
            )
        return value

    return convert


def default_url() -> str:
    """Return the URL of the server API if no argument names one."""
    return os.environ.get(URL_VARIABLE, DEFAULT_URL)


class ApiError(msgspec.Struct):
    """The error in an answer of the API."""

    code: int
    message: str


class NoFields(msgspec.Struct):
    """A result without fields that a command needs."""


class Published(msgspec.Struct):
    """The result of a publication."""

    offset: int
    epoch: str


class Publication(msgspec.Struct):
    """The fields of a stored publication that a command needs."""

    offset: int
    data: Any


class Page(msgspec.Struct):
    """The result of ``history``."""

    publications: list[Publication]
    offset: int
    epoch: str


class ApiClient:
    """Calls methods of the server API, one request at a time.

    Args:
        args: Parsed arguments that `add_api_arguments` declared.

    Raises:
        CommandError: There is no key, or the URL is not valid.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._url = checked_url(args.url or default_url(), DEFAULT_URL)
        self._key = read_secret(KEY_VARIABLE, args.key_file, '--key-file')
        self._timeout_s: float = args.timeout_s
        if self._url.scheme == 'http' and not _is_loopback(self._url.hostname or ''):
            say(f'warning: the key is sent unencrypted to {self._url.hostname}')

    def call(self, method: str, shape: type, /, **request: Any) -> Any:
        """Return the result of a method, as it was decoded from JSON.

        Args:
            method: Name of the method.
            shape: A `msgspec.Struct` with the fields that the caller needs. The result
                may have more fields.
            request: Fields of the request.

        Raises:
            UnreachableError: The server did not answer in time.
            ApiCallError: The API answered with an error.
            CommandError: The answer does not come from a server API.
        """
        with contextlib.closing(self._connect(self._timeout_s)) as connection:
            response = self._send(connection, method, request)
            with self._network_errors():
                body = response.read(_MAX_ANSWER_BYTES + 1)
        return self._checked(self._decode(body).get('result'), shape)

    def _checked(self, value: Any, shape: type) -> Any:
        """Return a value that has the fields of a type.

        Raises:
            CommandError: A field is missing or has another type.
        """
        try:
            msgspec.convert(value, shape)
        except msgspec.ValidationError as ex:
            raise self.no_api(str(ex)) from None
        return value

    @contextlib.contextmanager
    def stream(
        self, method: str, shape: type, /, *, silence_s: float, **request: Any
    ) -> Iterator[Iterator[dict[str, Any]]]:
        """Call a method whose answer is a stream; yield its lines, decoded.

        Args:
            method: Name of the method.
            shape: A `msgspec.Struct` with the fields that a line may have.
            silence_s: Longest time in seconds without a line, before the timeout.
            request: Fields of the request.

        Raises:
            UnreachableError: The server did not answer in time, or the stream ended.
            ApiCallError: The API answered with an error.
            CommandError: The answer does not come from a server API.
        """
        timeout_s = silence_s + self._timeout_s
        with contextlib.closing(self._connect(timeout_s)) as connection:
            yield self._lines(self._send(connection, method, request), shape)

    def _lines(
        self, response: http.client.HTTPResponse, shape: type
    ) -> Iterator[dict[str, Any]]:
        while True:
            with self._network_errors():
                line = response.readline(_MAX_ANSWER_BYTES + 1)
            # NOTE: a stream that was cut off ends within a line, which is then no JSON.
            #   An answer that is no stream, such as an error, has no line end.
            if len(line) <= _MAX_ANSWER_BYTES and not line.endswith(b'\n'):
                try:
                    msgspec.json.decode(line)
                except ValueError:
                    raise UnreachableError(
                        f'{self._url.geturl()} ended the stream'
                    ) from None
            yield self._checked(self._decode(line), shape)

    def _decode(self, body: bytes) -> dict[str, Any]:
        if len(body) > _MAX_ANSWER_BYTES:
            raise CommandError(f'the answer exceeds {_MAX_ANSWER_BYTES} bytes')
        try:
            answer = msgspec.json.decode(body, type=dict[str, Any])
            error = msgspec.convert(answer.get('error'), ApiError | None)
        except (ValueError, RecursionError):
            raise self.no_api('the answer is not JSON of this API') from None
        if error is not None:
            raise ApiCallError(error.code, error.message)
        return answer

    def no_api(self, reason: str) -> CommandError:
        """Return the error for an answer that no server API gives."""
        return CommandError(
            f'{self._url.geturl()} did not answer as a server API does: {reason}; '
            f'{_NO_API_HINT}'
        )

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        url = self._url
        kind = (
            http.client.HTTPSConnection
            if url.scheme == 'https'
            else http.client.HTTPConnection
        )
        return kind(url.hostname or '', url.port, timeout=timeout_s)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        request: dict[str, Any],
    ) -> http.client.HTTPResponse:
        """Send a request; return the response, whose status is 200."""
        try:
            body = msgspec.json.encode(request)
        except UnicodeEncodeError:
            raise CommandError('an argument or the input is not UTF-8') from None
        # NOTE: a redirection is not followed, because it would get the key.
        with self._network_errors():
            connection.request(
                'POST',
                f'{self._url.path.rstrip("/")}/{method}',
                body,
                {'Content-Type': 'application/json', 'X-API-Key': self._key},
            )
            response = connection.getresponse()
        self._check_status(response.status)
        return response

    @contextlib.contextmanager
    def _network_errors(self) -> Iterator[None]:
        """Raise errors of the network as `UnreachableError`."""
        try:
            yield
        except (OSError, http.client.HTTPException) as ex:
            raise UnreachableError(
                f'no answer from {self._url.geturl()}: {ex or type(ex).__name__}'
            ) from None

    def _check_status(self, status: int) -> None:
        if status == 401:
            raise CommandError('the server does not know this key (HTTP 401)')
        if status in _UNREACHABLE:
            raise UnreachableError(f'{self._url.geturl()} answered HTTP {status}')
        if status == 413:
            raise CommandError(
                f'{self._url.geturl()} answered HTTP 413: the request is larger than '
                'max_body_bytes of channels.add_api; send less, or increase this option'
            )
        if status != 200:
            raise CommandError(
                f'{self._url.geturl()} answered HTTP {status}, and not as a server API '
                f'does; {_NO_API_HINT}'
            )


def checked_url(text: str, example: str) -> SplitResult:
    """Return the parts of a URL.

    Raises:
        CommandError: It is not a URL such as `example`, or it contains a secret.
    """
    try:
        url = urlsplit(text)
        is_right = url.port is None or url.port > 0
        # NOTE: `http.client` encodes the host and the path in this way.
        (url.hostname or '').encode('idna')
        url.path.encode('ascii')
    except ValueError:
        is_right = False
    if not is_right or url.scheme not in ('http', 'https') or not url.hostname:
        raise CommandError(f'{text!r} is no URL such as {example}')
    if url.query or url.username:
        raise CommandError('secrets and queries do not belong into the URL')
    return url


def _is_loopback(host: str) -> bool:
    if host == 'localhost':
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_secret(variable: str, file: Path | None, option: str) -> str:
    """Return a secret from a file or the environment; never from an argument.

    SECURITY: other users of the machine can read arguments, and shells store them. So
    secrets are not arguments.

    Raises:
        CommandError: There is no secret, or the file cannot be read.
    """
    if file is not None:
        try:
            secret = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as ex:
            raise CommandError(f'cannot read {file}: {ex}') from None
    else:
        secret = os.environ.get(variable, '').strip()
    if not secret:
        raise CommandError(f'set {variable} in the environment, or give {option} FILE')
    if not secret.isascii() or not secret.isprintable():
        raise CommandError(f'the content of {variable} or {option} is not a key')
    return secret


def parse_json(text: str, what: str, other_way: str = '') -> Any:
    """Decode JSON from the command line.

    Args:
        text: The JSON.
        what: Name of the value, for the error.
        other_way: Another way to pass text, for the error.

    Raises:
        CommandError: The text is not JSON.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, ValueError) as ex:
        raise CommandError(
            f'{what} is not JSON: {ex}; quote text twice: \'"hello"\'{other_way}'
        ) from None


def show(value: Any) -> None:
    """Print a value as one line of JSON."""
    show_line(msgspec.json.encode(value).decode())


def show_line(text: str) -> None:
    """Print a line without delay; see `_printable`."""
    print(_printable(text), flush=True)  # noqa: T201 - output of a command


def _printable(text: str) -> str:
    """Return a text without control characters.

    SECURITY: a client could publish control characters that take over the terminal.
    Characters that are not printable are escaped, also Unicode's direction marks. So
    are characters that the encoding of the output does not have.
    """
    if text.isprintable() and (text.isascii() or _fits(text)):
        return text
    return ''.join(c if c.isprintable() and _fits(c) else _escaped(c) for c in text)


def _fits(text: str) -> bool:
    """Return whether the encoding of the output, such as ASCII, has all characters."""
    try:
        text.encode(sys.stdout.encoding or 'utf-8')
    except UnicodeEncodeError:
        return False
    return True


def _escaped(character: str) -> str:
    data = character.encode('utf-16-be', 'surrogatepass')
    units = (data[i : i + 2].hex() for i in range(0, len(data), 2))
    return ''.join(f'\\u{unit}' for unit in units)


def say(text: str) -> None:
    """Print a message to standard error; results are printed to standard output.

    It can contain text of a server or a client; see `_printable`.
    """
    print(  # noqa: T201 - output of a command
        f'falcon-channels: {_printable(text)}', file=sys.stderr, flush=True
    )


def run(command: Callable[[], None]) -> int:
    """Run a command; return its exit code.

    Returns:
        0 for success, and 1 after an error, which is printed.
    """
    try:
        command()
    except CommandError as ex:
        say(str(ex))
        return 1
    except BrokenPipeError:
        # NOTE: the reader of the output, such as head, has ended.
        _discard_output()
        return 0
    except OSError as ex:
        say(f'cannot read the input or write the output: {ex.strerror or ex}')
        _discard_output()
        return 1
    return 0


def _discard_output() -> None:
    """Forget output that cannot be written; else Python prints an error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
