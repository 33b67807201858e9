"""A page as a test reads it: its elements, attributes, scripts and text, without a browser.

It draws nothing; `browser` does.
"""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

HOSTILE = "</script><script>alert(1)</script><img src=https://example.org/x onerror='alert(2)'>&amp;"


@dataclass
class Parsed(HTMLParser):
    """Elements, attributes and text of a page; the text of scripts and styles apart."""

    elements: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str | None]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        self.text += " "

    def handle_data(self, data: str) -> None:
        if self.elements[-1:] in (["script"], ["style"]) and self.lasttag == self.elements[-1]:
            self.scripts.append(data)
        else:
            self.text += data

    @staticmethod
    def of(page: Path) -> "Parsed":
        parsed = Parsed()
        parsed.feed(page.read_text(encoding="utf-8"))
        return parsed


def words(text: str) -> str:
    return " ".join(text.split())
