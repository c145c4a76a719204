"""The code blocks of a page, and what a comment above one says of it. CONTRIBUTING.md describes the comments."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(
    r"(?:<!--(?P<comment>[^>]*?)-->\s*\n)?"
    r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_SESSION = re.compile(r"^<!-- session: (\w+) -->$", re.MULTILINE)
_TITLE = re.compile(r'title="([^"]+)"')
_TERMINAL = re.compile(r"terminal (?P<name>\w+), until: (?P<until>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    title: str
    code: str
    comment: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def reason(self) -> str | None:
        """Return why the block is not run; None if it is."""
        return self.comment.removeprefix("not run:").strip() if self.comment.startswith("not run:") else None

    @property
    def terminal(self) -> tuple[str, str] | None:
        """Return the terminal in which the block continues to run, and what it prints when it is ready."""
        match = _TERMINAL.fullmatch(self.comment)
        return (match["name"], match["until"]) if match else None

    @property
    def is_run(self) -> bool:
        return self.reason is None and (self.language in ("bash", "python") or bool(self.title))


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page with its blocks, in order."""

    name: str
    session: str
    """Where its blocks run: `empty`, `stack`, `clone` or `git`."""
    blocks: tuple[Block, ...]


def read_page(path: Path) -> Page:
    text, name = path.read_text(), str(path.relative_to(ROOT))
    session = _SESSION.search(text)
    blocks = []
    for match in _FENCE.finditer(text):
        language, _, rest = match["info"].strip().partition(" ")
        title = _TITLE.search(rest)
        blocks.append(
            Block(
                page=name,
                line=text.count("\n", 0, match.start("info")) + 1,
                language=language,
                title=title[1] if title else "",
                code=re.sub(f"^{match['indent']}", "", match["code"], flags=re.MULTILINE),
                comment=" ".join((match["comment"] or "").split()),
            )
        )
    return Page(name=name, session=session[1] if session else "empty", blocks=tuple(blocks))


def pages() -> list[Page]:
    """Return the README, the pages of docs/ and the READMEs of the examples."""
    paths = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    return [read_page(path) for path in sorted(paths)]
