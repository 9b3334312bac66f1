"""Channel routes: Falcon's own router finds the resource for a channel name."""

from __future__ import annotations

from collections.abc import Callable
import difflib
import inspect
import logging
import re
from typing import Any
from typing import NamedTuple
import unicodedata

from falcon.routing import CompiledRouter

from falcon_channels.class_hooks import check_class_hooks
from falcon_channels.converters import ChannelConverters
from falcon_channels.errors import ChannelNameError
from falcon_channels.errors import OptionsError
from falcon_channels.names import find_invisible_character
from falcon_channels.options import ChannelOptions
from falcon_channels.options import OPTION_KINDS

_logger = logging.getLogger('falcon_channels')

#: The responders that a channel's resource may have.
RESPONDERS = (
    'on_subscribe',
    'on_publish',
    'on_unsubscribe',
    'on_presence',
    'on_history',
)


#: Maximum number of names whose matches are remembered.
_MAX_KNOWN = 1024


def check_channel_name(channel: object, max_bytes: int) -> str:
    """Check a channel name and return it.

    Args:
        channel: Value to check.
        max_bytes: Maximum length in bytes of UTF-8.

    Raises:
        ChannelNameError: The value is not text, or is empty or too long. Or it is not
            in Unicode normal form C, begins with a slash, begins or ends with white
            space, or contains invisible characters.
    """
    if not isinstance(channel, str):
        raise ChannelNameError(f'a channel name is text, not {type(channel).__name__}')
    if not channel:
        raise ChannelNameError('a channel name may not be empty')
    if channel.isascii() and channel.isprintable():
        size_bytes = len(channel)
    else:
        # SECURITY: with an invisible character, an attacker can make a name that looks
        #   like another name.
        invisible = find_invisible_character(channel)
        if invisible is not None:
            raise ChannelNameError(
                f'channel name {channel[:80]!r} has the character '
                f'U+{ord(invisible):04X}, which names may not have here'
            )
        if not unicodedata.is_normalized('NFC', channel):
            raise ChannelNameError(
                f'channel name {channel[:80]!r} is not in Unicode normal form C'
            )
        size_bytes = len(channel.encode())
    if size_bytes > max_bytes:
        raise ChannelNameError(
            f'channel name of {size_bytes} bytes exceeds '
            f'max_channel_bytes of {max_bytes}'
        )
    if channel[0] == '/':
        # NOTE: the router ignores a leading slash, so two names would match one route.
        raise ChannelNameError(f'channel name {channel[:80]!r} begins with a slash')
    if channel[0].isspace() or channel[-1].isspace():
        raise ChannelNameError(
            f'channel name {channel[:80]!r} begins or ends with white space'
        )
    return channel


class ChannelRoute:
    """A template with its resource, options and responders.

    Attributes:
        template: Template of the channel names, such as ``rooms:{room}``.
        resource: The application's resource, or ``None``.
        options: Options of the channels.
        publishers: `ChannelOptions.publishers`, with ``'auto'`` resolved.
        subscribers: `ChannelOptions.subscribers`, with ``'auto'`` resolved.
        on_subscribe: The responder, or ``None``. Each other responder also has an
            attribute.
    """

    __slots__ = (
        'options',
        'publishers',
        'resource',
        'subscribers',
        'template',
        *RESPONDERS,
    )

    on_subscribe: Callable[..., Any] | None
    on_publish: Callable[..., Any] | None
    on_unsubscribe: Callable[..., Any] | None
    on_presence: Callable[..., Any] | None
    on_history: Callable[..., Any] | None

    def __init__(
        self,
        template: str,
        resource: object,
        options: ChannelOptions,
        suffix: str | None = None,
    ) -> None:
        check_resource(resource, RESPONDERS)
        self.template = template
        self.resource = resource
        self.options = options
        found = False
        names = {name: f'{name}_{suffix}' if suffix else name for name in RESPONDERS}
        for name, full_name in names.items():
            responder = getattr(resource, full_name, None)
            setattr(self, name, responder)
            if responder is None:
                continue
            found = True
            if not inspect.iscoroutinefunction(responder):
                raise TypeError(
                    f'{responder!r} must be a coroutine function: "async def"'
                )
            _check_arguments(responder, template)
        if suffix and not found:
            raise OptionsError(
                f'{resource!r} has no responder with the suffix {suffix!r}, '
                f'such as on_subscribe_{suffix}'
            )
        check_class_hooks(resource, names.values())
        # SECURITY: a route without `on_subscribe` is closed. Otherwise a forgotten
        #   responder would give every client the messages of every user.
        self.subscribers: str = options.subscribers
        if options.subscribers == 'auto':
            self.subscribers = 'nobody' if self.on_subscribe is None else 'anybody'
        self.publishers: str = options.publishers
        if options.publishers == 'auto':
            self.publishers = 'nobody' if self.on_publish is None else 'subscribers'


#: A field of a template, and the regular expressions of the converters whose values
#: have one spelling. Other fields match any text without a slash.
_FIELD = re.compile(r'\{([^{}:(]*)(?::([^{}(]*)(\([^{}]*\))?)?\}')
_CONVERTER_PATTERNS = {
    'int': '(?:0|-?[1-9][0-9]*)',
    'uuid': '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}',
    'path': '.*',
}


def name_pattern(template: str) -> tuple[str, str, str]:
    """Return a pattern of the names of a template, for a store that matches routes.

    The router also uses converters. The pattern covers only some converters of Falcon,
    and may therefore match more names than the router.

    Args:
        template: A checked template.

    Returns:
        The text with which the names begin; a regular expression in the syntax that
        PostgreSQL and Python share; and a rank. If several templates match a name, the
        router uses the one with the lowest rank.
    """
    patterns: list[str] = []
    rank = ''
    for segment in template.split('/'):
        fields = list(_FIELD.finditer(segment))
        pattern = ''
        end = 0
        whole = bool(fields) and fields[0].group() == segment
        for field in fields:
            converter, arguments = field.group(2), field.group(3)
            known = None if arguments else _CONVERTER_PATTERNS.get(converter or '')
            pattern += _escape(segment[end : field.start()])
            pattern += known or ('[^/]*' if whole else '[^/]+')
            end = field.end()
        patterns.append(pattern + _escape(segment[end:]))
        if not fields:
            rank += '0'
        elif not whole:
            rank += '1'
        else:
            rank += '3' if fields[0].group(2) == 'path' else '2'
    return template.partition('{')[0], f'^{"/".join(patterns)}$', rank


def _escape(literal: str) -> str:
    return re.sub(r'([^\w:/-])', r'\\\1', literal)


def _fields(template: str) -> list[str]:
    """Return the names of the fields of a template."""
    return re.findall(r'\{([^{}:(]*)', template)


def _check_arguments(responder: Callable[..., Any], template: str) -> None:
    """Check that a responder can be called with the fields of its template.

    NOTE: hooks (`falcon.before`) may add and remove arguments. Responders with hooks
    are therefore not checked.

    Raises:
        OptionsError: It cannot be called with them.
    """
    if hasattr(responder, '__wrapped__'):
        return
    signature, fields = inspect.signature(responder), _fields(template)
    try:
        signature.bind(None, None, **dict.fromkeys(fields))
    except TypeError as ex:
        wanted = ', '.join(['req', 'subscription, publication or connection', *fields])
        raise OptionsError(
            f'{getattr(responder, "__qualname__", responder)}{signature} does not '
            f'match {template!r}: {ex}; it is called with ({wanted})'
        ) from None


#: Types of values that have no responders.
_VALUES = (str, bytes, int, float, dict, list, tuple, set)


def check_resource(resource: object, responders: tuple[str, ...]) -> None:
    """Refuse a class, and warn about methods whose names resemble a responder's.

    SECURITY: if ``on_subscribe`` is misspelt, it is never called, and any client can
    subscribe. The warning names the method.

    Args:
        resource: The application's resource, or ``None``.
        responders: Names of all responders.

    Raises:
        OptionsError: It is a class and not an instance, an options object, or a value
            such as a text.
    """
    if isinstance(resource, _VALUES):
        raise OptionsError(
            f'resource is {resource!r:.40}, but must be an object with responders, or '
            'None'
        )
    if isinstance(resource, type):
        raise OptionsError(f'{resource.__name__} is a class: pass an instance of it')
    if isinstance(resource, OPTION_KINDS):
        # NOTE: the route would have no responder and the default options.
        raise OptionsError(
            f'the resource is {type(resource).__name__}(...): pass None or a resource '
            'there, and the options as options=...'
        )
    for name in dir(type(resource)):
        if not name.startswith('on_') or name in responders:
            continue
        if any(name.startswith(f'{responder}_') for responder in responders):
            continue  # a responder with a suffix
        meant = difflib.get_close_matches(name, responders, 1, cutoff=0.72)
        if meant:
            _logger.warning(
                '%s.%s is never called: the responder is %s',
                type(resource).__name__,
                name,
                meant[0],
            )


class ChannelMatch(NamedTuple):
    """The route for a channel name, and the values of the template's fields.

    A match is shared by all calls with the same name. Do not change `params`.
    """

    route: ChannelRoute
    params: dict[str, Any]


class ChannelRouter:
    """Finds the route for a channel name.

    Templates are for example ``rooms:{room}`` or ``users:{user_id:int}``. Literals,
    fields, converters and precedence work as in Falcon's router. A template is a path
    of segments between slashes, without the first slash.

    A name matches only if its fields have the canonical spelling of their values.
    Otherwise, a client could avoid a revocation for ``orders:10`` with ``orders:010``.

    Attributes:
        converters: The converters by name, used like `router_options.converters` of an
            app.
    """

    def __init__(self) -> None:
        self._router = CompiledRouter()
        self.converters = ChannelConverters(self._router.options.converters)
        self._routes: dict[str, ChannelRoute] = {}
        #: Recent names with their matches.
        self._known: dict[str, ChannelMatch] = {}

    def add(
        self,
        template: str,
        resource: object,
        options: ChannelOptions,
        suffix: str | None = None,
    ) -> ChannelRoute:
        """Add a route.

        Raises:
            ValueError: The template is malformed, or conflicts with another one.
            TypeError: A responder is not a coroutine function.
        """
        if not isinstance(template, str) or not template or template.startswith('/'):
            raise OptionsError(
                f'channel template {template!r} must be text without a leading slash, '
                'such as "rooms:{room}"'
            )
        if set('{}') & set(re.sub(r'\{[^{}]+\}', '', template)):
            raise OptionsError(
                f'channel template {template!r} has an unmatched brace or empty braces'
            )
        if template in self._routes:
            raise OptionsError(f'channel template {template!r} already has a route')
        route = ChannelRoute(template, resource, options, suffix)
        self._router.add_route('/' + template, route)
        self._routes[template] = route
        self._known.clear()
        return route

    @property
    def routes(self) -> list[ChannelRoute]:
        """All routes, in the order in which they were added."""
        return list(self._routes.values())

    def find(self, channel: str, max_bytes: int) -> ChannelMatch | None:
        """Check a channel name, and return its route, or ``None``.

        PERF: Most names are used again soon. A name that was found is not checked again
        (benchmarks/centrifugo.py).

        Args:
            channel: Name of the channel.
            max_bytes: Maximum length of names, the same in all calls.

        Raises:
            ChannelNameError: The name is not a channel name.
        """
        known = self._known.get(channel) if isinstance(channel, str) else None
        if known is not None:
            return known
        check_channel_name(channel, max_bytes)
        match = self.match(channel)
        if match is not None and self.converters.are_built_in:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[channel] = match
        return match

    def match(self, channel: str) -> ChannelMatch | None:
        """Return the route for a checked channel name, or ``None``."""
        found = self._router.find('/' + channel)
        if found is None:
            return None
        route, _, params, _ = found
        assert isinstance(route, ChannelRoute)
        return ChannelMatch(route, params or {})
