"""The page about answers shows the code of its example, which the tests run."""

from __future__ import annotations

import re

import pytest
from support.processes import ROOT

TEXT = (ROOT / 'docs/answers.md').read_text()
BLOCKS = re.findall(r'<!-- (\S+) -->\n```\w+\n(.*?)```', TEXT, re.DOTALL)


@pytest.mark.parametrize(('path', 'code'), BLOCKS)
def test_code_of_the_page_is_part_of_the_example(path: str, code: str) -> None:
    """tests/browser/test_answers_pages.py runs the example in a browser."""
    assert code in (ROOT / path).read_text()


def test_every_code_block_is_from_the_example() -> None:
    """The only other block is a command of make, which CI runs a part of."""
    assert 2 * len(BLOCKS) + 2 == TEXT.count('```')
    assert '```\nmake answers\n```' in TEXT
