"""Reads a Dockerfile of this repository, without an engine that builds it."""

from __future__ import annotations

import json
from pathlib import Path
import re


class Dockerfile:
    """The instructions of a Dockerfile.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        text = re.sub(r'^#.*\n', '', path.read_text(), flags=re.MULTILINE)
        lines = text.replace('\\\n', ' ').splitlines()
        self.instructions = [
            (words[0], words[2]) for line in lines if (words := line.partition(' '))[0]
        ]

    def stage(self, name: str) -> list[tuple[str, str]]:
        """Return the instructions of a stage; the last stage has the name ''."""
        stages: dict[str, list[tuple[str, str]]] = {}
        current = ''
        for word, rest in self.instructions:
            if word == 'FROM':
                current = rest.partition(' AS ')[2]
            stages.setdefault(current, []).append((word, rest))
        return stages[name]

    def last(self, word: str) -> str:
        """Return the text of the only instruction of this kind in the last stage."""
        (rest,) = [rest for found, rest in self.stage('') if found == word]
        return rest

    @property
    def command(self) -> list[str]:
        """The words of CMD, which has no shell."""
        words: list[str] = json.loads(self.last('CMD'))
        return words

    @property
    def health_check(self) -> list[str]:
        """The words of the health check, which has no shell."""
        words: list[str] = json.loads(self.last('HEALTHCHECK').partition(' CMD ')[2])
        return words
