"""What people may be called, what rooms may be called, what a message may be."""

from __future__ import annotations

import unicodedata

import falcon

MAX_NAME_CHARACTERS = 40
MAX_TEXT_CHARACTERS = 4000

#: They turn the direction of what stands beside a name.
_BIDI_CONTROLS = frozenset('\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e') | (
    frozenset('\u2066\u2067\u2068\u2069')
)


def person_name(text: str) -> str:
    """Return a name as it is shown.

    Raises:
        falcon.HTTPUnprocessableEntity: It cannot be a name.
    """
    name = ' '.join(unicodedata.normalize('NFC', text).split())
    if not 0 < len(name) <= MAX_NAME_CHARACTERS:
        raise falcon.HTTPUnprocessableEntity(
            description=f'A name has 1 to {MAX_NAME_CHARACTERS} characters.'
        )
    # SECURITY: with these somebody could make a name look like another's.
    if any(
        character in _BIDI_CONTROLS or unicodedata.category(character) in ('Cc', 'Cn')
        for character in name
    ):
        raise falcon.HTTPUnprocessableEntity(
            description='That name has characters that cannot be shown.'
        )
    return name


def room_name(text: str) -> str:
    """Return the name of a room, which is also its address: ``Garden`` is ``garden``.

    Raises:
        falcon.HTTPUnprocessableEntity: It cannot be one.
    """
    folded = unicodedata.normalize('NFKC', text).casefold()
    # NOTE: again, for folding can take characters apart.
    name = '-'.join(unicodedata.normalize('NFKC', folded).split())
    if not 0 < len(name) <= MAX_NAME_CHARACTERS:
        raise falcon.HTTPUnprocessableEntity(
            description=f'A room has a name of 1 to {MAX_NAME_CHARACTERS} characters.'
        )
    if not all(
        character == '-' or unicodedata.category(character)[0] in 'LMN'
        for character in name
    ):
        raise falcon.HTTPUnprocessableEntity(
            description='Letters, digits and hyphens make the name of a room.'
        )
    return name


def message_text(text: str) -> str:
    """Return the text of a message, without blank space around it.

    Raises:
        falcon.HTTPUnprocessableEntity: It is too long.
    """
    text = text.replace('\r\n', '\n').strip()
    if len(text) > MAX_TEXT_CHARACTERS:
        raise falcon.HTTPUnprocessableEntity(
            description=f'{len(text)} characters are over the limit of '
            f'{MAX_TEXT_CHARACTERS}.'
        )
    return text
