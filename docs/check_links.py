"""Checks the built site: each link within it leads to a file, and to a place in that.

    python docs/check_links.py docs/_build

Sphinx checks what it makes itself; this is for links that were written by hand, and for pages
that stand in two places, such as the one on security.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links of one page, and the places in it that can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser."""
        found = dict(attrs)
        if tag != "link":  # such as the one to the search of a browser
            self.links += [text for name in ("href", "src") if (text := found.get(name))]
        self.places |= {text for name in ("id", "name") if (text := found.get(name))}


def broken(root: Path) -> list[str]:
    """A line for each link that leads nowhere."""
    pages = {path.resolve(): Page(path) for path in sorted(root.rglob("*.html"))}
    found: list[str] = []
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            place = unquote(url.fragment)
            if not target.exists() or (target in pages and place not in pages[target].places):
                found.append(f"{path.relative_to(root.resolve())}: {link}")
    return found


def main() -> int:
    """The exit code is 0 if every link leads somewhere."""
    root = Path(sys.argv[1])
    lines = broken(root)
    print(*lines, sep="\n", end="\n" if lines else "")
    print(f"{len(lines)} broken links in {root}.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
