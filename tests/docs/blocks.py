"""The code blocks of a page, and what a comment above one says of it: docs/contributing/writing-documentation.md."""

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
_NEEDS = re.compile(r"^<!-- needs: ([\w ]+) -->$", re.MULTILINE)
_FOR_RELEASES = re.compile(r"^<!-- run by: make release-check -->$", re.MULTILINE)
_TITLE = re.compile(r'title="([^"]+)"')
_COMMENT = re.compile(
    r"(?:terminal (?P<terminal>\w+))?(?:, )?"
    r"(?:until: (?P<until>.+)|installed: (?P<installed>.+)|(?P<word>fails|output))?"
)


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
    def is_understood(self) -> bool:
        return len(self.comment) > len("not run: why") if self._is_refused else bool(_COMMENT.fullmatch(self.comment))

    @property
    def terminal(self) -> str:
        """Return the terminal in which this block is typed; empty for that of the block before."""
        return self._part("terminal")

    @property
    def until(self) -> str:
        """Return what the block prints before the page continues; empty if it ends."""
        return self._part("until")

    @property
    def installed(self) -> str:
        """Return the environment into which this block installs what the clone's has; empty if it does not."""
        return self._part("installed")

    @property
    def fails(self) -> bool:
        return self._part("word") == "fails"

    @property
    def is_output(self) -> bool:
        return self._part("word") == "output"

    @property
    def is_run(self) -> bool:
        """Return whether the block is typed, saved or compared."""
        return not self._is_refused and (self.language in ("bash", "python") or bool(self.title) or self.is_output)

    @property
    def _is_refused(self) -> bool:
        return self.comment.startswith("not run:")

    def _part(self, name: str) -> str:
        match = _COMMENT.fullmatch(self.comment)
        return (match and match[name]) or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page with its blocks, in order."""

    name: str
    session: str
    """Where its blocks run: `empty`, `stack`, `clone`, `git` or `services`."""
    needs: tuple[str, ...]
    """Programs without which its blocks are skipped."""
    is_for_releases: bool
    """Whether `make release-check` alone runs its blocks: they take long, and other tests have what they show."""
    blocks: tuple[Block, ...]


def read_page(path: Path) -> Page:
    text, name = path.read_text(), str(path.relative_to(ROOT))
    session, needs = _SESSION.search(text), _NEEDS.search(text)
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
    return Page(
        name=name,
        session=session[1] if session else "empty",
        needs=tuple(needs[1].split()) if needs else (),
        is_for_releases=bool(_FOR_RELEASES.search(text)),
        blocks=tuple(blocks),
    )


def pages() -> list[Page]:
    """Return the README, the pages of docs/ and the READMEs of the examples."""
    paths = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    return [read_page(path) for path in sorted(paths)]


def read_titled(page: str) -> dict[str, str]:
    """Return the files and commands of a page by their titles, for a test that needs more than the page."""
    return {block.title: block.code for block in read_page(ROOT / page).blocks if block.title}
