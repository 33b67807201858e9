"""Is the site whole: all public names, no dead link within, nothing asked of another host, nobody kept out?

python docs/site/check.py build/site
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from accessibility import kept_out

# Where an address is fetched with the page; a link that somebody may follow asks for nothing.
FETCHED = {
    "href": ("link",),
    "src": ("script", "img", "iframe", "source", "audio", "video"),
    "data": ("object",),
}
OF_STYLES = re.compile(r"url\(\s*[\"']?((?:https?:)?//[^)\"']+)|@import\s+[\"']((?:https?:)?//[^\"']+)")


class Page(HTMLParser):
    """What a page fetches, where it links to, and what can be linked to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Keep what is asked about."""
        of = {name: value or "" for name, value in attributes}
        self.ids |= {of[name] for name in ("id", "name") if name in of}
        self.fetched += [of[name] for name, tags in FETCHED.items() if tag in tags and of.get(name)]
        self.fetched += [
            address for pair in OF_STYLES.findall(of.get("style", "")) for address in pair if address
        ]
        if tag == "a" and "href" in of:
            self.links.append(of["href"])


def faults(site: Path) -> Iterator[str]:
    """What is wrong with a site."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        yield from (f"{where} fetches {one}" for one in page.fetched if is_elsewhere(one))
        for link in page.links + page.fetched:
            yield from (f"{where}: {fault}" for fault in faults_of_link(path, link, pages))
    for path in sorted(site.rglob("*.css")):
        found = OF_STYLES.findall(path.read_text(encoding="utf-8"))
        yield from (f"{path.relative_to(site)} fetches {one}" for pair in found for one in pair if one)


def faults_of_link(path: Path, link: str, pages: dict[Path, Page]) -> Iterator[str]:
    """Whether a link within the site leads to something."""
    parts = urlsplit(link)
    if is_elsewhere(link) or parts.scheme:
        return
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.exists():
        yield f"no {link}"
    elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
        yield f"{link} has no such heading"


def is_elsewhere(address: str) -> bool:
    """Whether it is on another host."""
    return bool(re.match(r"(https?:)?//", address))


def missing_names(site: Path) -> list[str]:
    """Public names without a page, or whose page does not define them."""
    from public import names

    pages = {name.page: site / "reference" / f"{name.page}.html" for name in names()}
    return [
        page
        for page, path in pages.items()
        if not path.is_file() or f'id="{page}"' not in path.read_text(encoding="utf-8")
    ]


def main() -> None:
    """Print every fault; exit code 1 where there is one."""
    site = Path(sys.argv[1])
    found = [
        *faults(site),
        *(f"no page of {name}" for name in missing_names(site)),
        *kept_out(site),
    ]
    print(*found, sep="\n", end="\n" if found else "")
    n_pages = len(list(site.rglob("*.html")))
    print(f"{n_pages} pages, {len(found)} faults")
    sys.exit(bool(found) or n_pages < 100)


if __name__ == "__main__":
    main()
