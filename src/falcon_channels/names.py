"""Finds invisible characters in names, such as names of channels and of people.

If two names look the same but are not equal, an attacker can pretend to be another
user. The rules for joiners follow UAX #31 (Unicode Identifiers and Syntax), section
2.3.1, and UTS #51 (Unicode Emoji).
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple
import unicodedata

__all__ = ['find_invisible_character']

_ZWNJ = '\u200c'
_ZWJ = '\u200d'
_EMOJI_STYLE = '\ufe0f'

#: Canonical combining class of a sign that removes the vowel of an Indic letter.
_VIRAMA = 9

#: Control, format and surrogate characters, and separators.
_REFUSED_CATEGORIES = frozenset({'Cc', 'Cf', 'Cs', 'Zl', 'Zp', 'Zs'})

# The next tables are ranges of characters, in hexadecimal. Python's `unicodedata` does
# not have these properties.

#: Characters with the property Default_Ignorable_Code_Point, and four that fonts draw
#: as empty space although they have another category.
_INVISIBLE = (
    'ad 34f 61c 115f-1160 17b4-17b5 180b-180f 200b-200f 202a-202e 2060-206f 3164 '
    'fe00-fe0f feff ffa0 fff0-fff8 1bca0-1bca3 1d173-1d17a e0000-e0fff '
    '2800 16fe4 1d159 fffc'
)
#: Letters that are written joined to the letter after them (Joining_Type D).
_JOINS_NEXT = (
    '620 626 628 62a-62e 633-63f 641-647 649-64a 66e-66f 678-687 69a-6bf 6c1-6c2 6cc '
    '6ce 6d0-6d1 6fa-6fc 6ff 712-714 71a-71d 71f-727 729 72b 72d-72e 74e-758 75c-76a '
    '76d-770 772 775-777 77a-77f 7ca-7ea 841-845 848 84a-853 855 860 862-865 868 886 '
    '889-88d 8a0-8a9 8af-8b0 8b3-8b8 8ba-8c8 1807 1820-1878 1887-18a8 18aa a840-a871 '
    '10d01-10d21 10d23 1e900-1e943'
)
#: Letters that are written joined only to the letter before them (Joining_Type R).
_JOINS_PREVIOUS = (
    '622-625 627 629 62f-632 648 671-673 675-677 688-699 6c0 6c3-6cb 6cd 6cf 6d2-6d3 '
    '6d5 6ee-6ef 710 715-719 71e 728 72a 72c 72f 74d 759-75b 76b-76c 771 773-774 '
    '778-779 840 846-847 849 854 856-858 867 869-86a 870-882 88e 8aa-8ac 8ae 8b1-8b2 '
    '8b9 10d22'
)
#: Emoji (Extended_Pictographic).
_EMOJI = (
    'a9 ae 203c 2049 2122 2139 2194-2199 21a9-21aa 231a-231b 2328 2388 23cf 23e9-23f3 '
    '23f8-23fa 24c2 25aa-25ab 25b6 25c0 25fb-25fe 2600-2605 2607-2612 2614-2685 '
    '2690-2705 2708-2712 2714 2716 271d 2721 2728 2733-2734 2744 2747 274c 274e '
    '2753-2755 2757 2763-2767 2795-2797 27a1 27b0 27bf 2934-2935 2b05-2b07 2b1b-2b1c '
    '2b50 2b55 3030 303d 3297 3299 1f000-1f0ff 1f10d-1f10f 1f12f 1f16c-1f171 '
    '1f17e-1f17f 1f18e 1f191-1f19a 1f1ad-1f1e5 1f201-1f20f 1f21a 1f22f 1f232-1f23a '
    '1f23c-1f23f 1f249-1f3fa 1f400-1f53d 1f546-1f64f 1f680-1f6ff 1f774-1f77f '
    '1f7d5-1f7ff 1f80c-1f80f 1f848-1f84f 1f85a-1f85f 1f888-1f88f 1f8ae-1f8ff '
    '1f90c-1f93a 1f93c-1f945 1f947-1faff 1fc00-1fffd'
)
#: Emoji that are drawn as text unless U+FE0F follows (no Emoji_Presentation).
_TEXT_STYLE = (
    'a9 ae 203c 2049 2122 2139 2194-2199 21a9-21aa 2328 23cf 23ed-23ef 23f1-23f2 '
    '23f8-23fa 24c2 25aa-25ab 25b6 25c0 25fb-25fc 2600-2604 260e 2611 2618 261d 2620 '
    '2622-2623 2626 262a 262e-262f 2638-263a 2640 2642 265f-2660 2663 2665-2666 2668 '
    '267b 267e 2692 2694-2697 2699 269b-269c 26a0 26a7 26b0-26b1 26c8 26cf 26d1 26d3 '
    '26e9 26f0-26f1 26f4 26f7-26f9 2702 2708-2709 270c-270d 270f 2712 2714 2716 271d '
    '2721 2733-2734 2744 2747 2763-2764 27a1 2934-2935 2b05-2b07 3030 303d 3297 3299 '
    '1f170-1f171 1f17e-1f17f 1f202 1f237 1f321 1f324-1f32c 1f336 1f37d 1f396-1f397 '
    '1f399-1f39b 1f39e-1f39f 1f3cb-1f3ce 1f3d4-1f3df 1f3f3 1f3f5 1f3f7 1f43f 1f441 '
    '1f4fd 1f549-1f54a 1f56f-1f570 1f573-1f579 1f587 1f58a-1f58d 1f590 1f5a5 1f5a8 '
    '1f5b1-1f5b2 1f5bc 1f5c2-1f5c4 1f5d1-1f5d3 1f5dc-1f5de 1f5e1 1f5e3 1f5e8 1f5ef '
    '1f5f3 1f5fa 1f6cb 1f6cd-1f6cf 1f6e0-1f6e5 1f6e9 1f6f0 1f6f3'
)
_SKIN_TONE = '1f3fb-1f3ff'


class _Patterns(NamedTuple):
    """Compiled patterns that `find_invisible_character` uses."""

    invisible: re.Pattern[str]
    joins_next: re.Pattern[str]
    joins_previous: re.Pattern[str]
    emoji: re.Pattern[str]


@functools.cache
def _patterns() -> _Patterns:
    """Compile the patterns when the first name needs them."""
    text_style, skin_tone = _members(_TEXT_STYLE), _members(_SKIN_TONE)
    one = (
        f'(?:[{text_style}][{_EMOJI_STYLE}{skin_tone}]'
        f'|(?![{text_style}{skin_tone}])[{_members(_EMOJI)}][{skin_tone}]?)'
    )
    return _Patterns(
        invisible=re.compile(f'[{_members(_INVISIBLE)}]'),
        joins_next=re.compile(f'[{_members(_JOINS_NEXT)}]'),
        joins_previous=re.compile(
            f'[{_members(_JOINS_NEXT)}{_members(_JOINS_PREVIOUS)}]'
        ),
        emoji=re.compile(f'[0-9#*]{_EMOJI_STYLE}\u20e3|{one}(?:{_ZWJ}{one})*'),
    )


def _members(ranges: str) -> str:
    """Return ranges of characters as the members of a character class."""
    return ''.join(
        '-'.join(chr(int(code, 16)) for code in part.split('-'))
        for part in ranges.split()
    )


def find_invisible_character(name: str) -> str | None:
    """Return the first character of a name that cannot be seen, or ``None``.

    Such characters are control and format characters, and white space except the
    ordinary space. Others are characters that fonts do not draw, such as U+034F,
    U+115F, U+3164 and variation selectors.

    Persian names, Indic names and emoji need the zero width non-joiner, the zero width
    joiner and U+FE0F. These three are returned only if the text around them does not
    need them.

    Args:
        name: The name, in Unicode normal form C or KC.
    """
    if name.isascii() and name.isprintable():
        return None
    patterns = _patterns()
    # NOTE: each emoji has one spelling. In a sequence, U+FE0F is required after an
    #   emoji of text style, and refused after the others.
    in_emoji: set[int] = set()
    if _ZWJ in name or _EMOJI_STYLE in name:
        for match in patterns.emoji.finditer(name):
            in_emoji.update(range(*match.span()))
    for index, character in enumerate(name):
        if character == ' ' or index in in_emoji:
            continue
        if (
            unicodedata.category(character) in _REFUSED_CATEGORIES
            or patterns.invisible.match(character)
        ) and not _is_joiner_in_context(name, index):
            return character
    return None


def _is_joiner_in_context(name: str, index: int) -> bool:
    """Return whether a joiner changes how the letters around it are written.

    These are the contexts A1, A2 and B of UAX #31. All letters of a context must belong
    to one script, because letters of two scripts are never joined.
    """
    joiner = name[index]
    if joiner not in (_ZWNJ, _ZWJ):
        return False
    before = index - 1
    after_virama = False
    while before >= 0 and _is_mark(name[before]):
        after_virama |= unicodedata.combining(name[before]) == _VIRAMA
        before -= 1
    if before < 0:
        return False
    if joiner == _ZWJ:
        followed_by_mark = _is_mark(name[index + 1 : index + 2])
        return (
            after_virama
            and _script(name[before]) == _script(name[index - 1])
            and not followed_by_mark
        )
    after = index + 1
    while after < len(name) and _is_mark(name[after]):
        after += 1
    if after == len(name) or _script(name[before]) != _script(name[after]):
        return False
    if after_virama:
        return unicodedata.category(name[after])[0] == 'L'
    patterns = _patterns()
    return bool(
        patterns.joins_next.match(name[before])
        and patterns.joins_previous.match(name[after])
    )


def _is_mark(character: str) -> bool:
    """Return whether this is a combining mark; ``False`` for an empty text."""
    return bool(character) and unicodedata.category(character)[0] == 'M'


def _script(character: str) -> str:
    """Return the script of a letter, by the first word of its Unicode name."""
    return unicodedata.name(character, '').partition(' ')[0]
