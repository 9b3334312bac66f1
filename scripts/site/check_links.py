"""Check the links of the built site, without a network.

Each link to a page, an anchor or a file of the site must lead somewhere. A page may
link to other sites, but must not load scripts, styles, fonts or images from them.

Usage: ``python -m scripts.site.check_links build/site``
"""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
import re
import sys
from urllib.parse import unquote
from urllib.parse import urlsplit

#: Attributes that make the browser load something, by element.
_LOADS = {
    'audio': 'src',
    'iframe': 'src',
    'img': 'src',
    'script': 'src',
    'source': 'src',
    'video': 'src',
}
_STYLE_URL = re.compile(r'url\(\s*[\'"]?(?!data:)([^\'")]+)|@import\s+[\'"]([^\'"]+)')
_MARKDOWN_LINK = re.compile(r'\]\((?!\w+:)([^)#]+)\)')


class _Page(HTMLParser):
    """Collects the ids and links of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called with each element of the page."""
        fields = {name: value or '' for name, value in attrs}
        self.ids.update(
            fields[name] for name in ('id', 'name') if fields.get(name) is not None
        )
        if tag == 'a' and 'href' in fields:
            self.links.append(fields['href'])
        if tag == 'link' and fields.get('rel') != 'canonical' and 'href' in fields:
            self.loads.append(fields['href'])
        if fields.get(_LOADS.get(tag, '')):
            self.loads.append(fields[_LOADS[tag]])


def html_files(site: Path) -> list[Path]:
    """Return the pages of the site, without the files of the theme."""
    files = (path for path in site.rglob('*.html') if '_static' not in path.parts)
    return sorted(files)


def broken_links(site: Path) -> Iterator[str]:
    """Yield a line of text for each link that leads nowhere."""
    parsed = {path: _Page(path.read_text()) for path in html_files(site)}
    for path, page in parsed.items():
        place = path.relative_to(site)
        for link in page.loads:
            if urlsplit(link).netloc:
                yield f'{place}: loads {link} from another site'
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path
            if parts.path:
                target = (path.parent / unquote(parts.path)).resolve()
            if target.is_dir():
                target /= 'index.html'
            if not target.is_file():
                yield f'{place}: {link} is no file of the site'
            elif (
                parts.fragment
                and target in parsed
                and unquote(parts.fragment) not in parsed[target].ids
            ):
                yield f'{place}: {link} has no such anchor'
    for link in _MARKDOWN_LINK.findall((site / 'llms.txt').read_text()):
        if not (site / link).is_file():
            yield f'llms.txt: {link} is no file of the site'
    for path in site.rglob('*.css'):
        for found in _STYLE_URL.findall(path.read_text()):
            if urlsplit(''.join(found)).netloc:
                yield f'{path.relative_to(site)}: loads {"".join(found)}'


def main(arguments: list[str]) -> int:
    """Print each broken link; return the exit code."""
    site = Path(arguments[0]).resolve()
    pages = len(html_files(site))
    broken = list(broken_links(site))
    print(*broken, sep='\n', end='\n' if broken else '')
    print(f'{len(broken)} broken links on {pages} pages')
    return 1 if broken or not pages else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
