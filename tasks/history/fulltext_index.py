"""The full-text index of the texts of runs: SQLite's FTS5, or a GIN index of PostgreSQL, behind the same functions.

Both split texts at everything but letters and digits, so `ORD-2024_17` is three words in a row.
"""

import re
import unicodedata
from collections.abc import Sequence

from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from django.db.models import BooleanField
from django.db.models.expressions import RawSQL

from runqy.errors import RequestInvalid

TABLE = "tasks_taskrun"
INDEX = "tasks_taskrun_text"
COLUMNS = ("payload", "error_class", "error_message", "traceback")

_MAX_ID = 2**63 - 1
_MAX_TERMS = 20
_MAX_MERGES = 8
_WORD = re.compile(r"[^\W_]+")
_ESCAPE = re.compile(
    r"\\u(?P<high>[dD][89abAB][\da-fA-F]{2})\\u(?P<low>[dD][c-fC-F][\da-fA-F]{2})|\\u(?P<code>[\da-fA-F]{4})|\\.",
    re.ASCII | re.DOTALL,
)
"""`\\\\u00fc` in JSON is a backslash and the text `u00fc`, not an escape."""


def _values(row: str) -> str:
    return ", ".join(f"{row}.{column}" for column in COLUMNS)


_NAMES = ", ".join(COLUMNS)
_ADD = f"INSERT INTO {INDEX}(rowid, {_NAMES}) VALUES (new.id, {_values('new')})"  # noqa: S608 (constants)
_REMOVE_OLD = (
    f"INSERT INTO {INDEX}({INDEX}, rowid, {_NAMES}) "  # noqa: S608 (constants)
    f"VALUES ('delete', old.id, {_values('old')})"
)
_VECTOR = (
    "to_tsvector('simple', regexp_replace("
    + " || ' ' || ".join(COLUMNS)
    + ", '[^[:alnum:]]+', ' ', 'g'))"  # one text, so that a recheck parses it once
)

_INSTALL = {
    "sqlite": [
        # The table keeps neither the texts, which `content` has, nor their lengths, since nothing is ranked.
        f"CREATE VIRTUAL TABLE {INDEX} USING fts5({_NAMES}, content='{TABLE}', content_rowid='id', "
        "tokenize='unicode61', columnsize=0)",
        f"INSERT INTO {INDEX}({INDEX}) VALUES ('rebuild')",  # noqa: S608 (constants)
        # Inserts merge no segments, which takes longer than the insert: `merge_segments` does.
        f"INSERT INTO {INDEX}({INDEX}, rank) VALUES ('automerge', 0)",  # noqa: S608 (constants)
        f"CREATE TRIGGER {INDEX}_insert AFTER INSERT ON {TABLE} BEGIN {_ADD}; END",
        f"CREATE TRIGGER {INDEX}_delete AFTER DELETE ON {TABLE} BEGIN {_REMOVE_OLD}; END",
        f"CREATE TRIGGER {INDEX}_update AFTER UPDATE OF {_NAMES} ON {TABLE} BEGIN {_REMOVE_OLD}; {_ADD}; END",
    ],
    "postgresql": [f"CREATE INDEX {INDEX} ON {TABLE} USING gin (({_VECTOR}))"],
}
_MERGE = f"INSERT INTO {INDEX}({INDEX}, rank) VALUES ('merge', %s)"  # noqa: S608 (constants)
MERGE_PAGES = 100
"""The pages of the index that one transaction merges, which takes a few milliseconds."""
_REMOVE = {
    "sqlite": [
        *(f"DROP TRIGGER IF EXISTS {INDEX}_{verb}" for verb in ("insert", "delete", "update")),
        f"DROP TABLE IF EXISTS {INDEX}",
    ],
    "postgresql": [f"DROP INDEX IF EXISTS {INDEX}"],
}
_HOLDS_TEXT = {
    # The "+" makes SQLite read the index of a list's order and look up each id among the matches (ADR 0031).
    "sqlite": f"+{TABLE}.id IN (SELECT rowid FROM {INDEX} WHERE {INDEX} MATCH %s AND rowid > %s AND rowid <= %s)",  # noqa: S608
    "postgresql": f"({_VECTOR} @@ to_tsquery('simple', %s) AND id > %s AND id <= %s)",
}

Terms = Sequence[Sequence[str]]
"""The words of each term of a text."""


def install(database: BaseDatabaseWrapper) -> None:
    """Create the index of all rows.

    SQLite drops the triggers together with the table, so a migration that remakes the table calls `remove` and
    `install`.
    """
    _execute(database, _INSTALL)


def merge_segments() -> None:
    """Merge the segments that writes have added to SQLite's index, in short transactions. PostgreSQL needs none."""
    if connection.vendor != "sqlite":
        return
    with connection.cursor() as cursor:
        changes = _count_changes(cursor)
        for _ in range(_MAX_MERGES):
            cursor.execute(_MERGE, [MERGE_PAGES])
            before, changes = changes, _count_changes(cursor)
            if changes - before < 2:  # FTS5's sign that nothing was left to merge
                break


def _count_changes(cursor: CursorWrapper) -> int:
    """Return how many rows this connection has changed since it was opened."""
    cursor.execute("SELECT total_changes()")
    return int(cursor.fetchone()[0])


def remove(database: BaseDatabaseWrapper) -> None:
    _execute(database, _REMOVE)


def knows_all_letters() -> bool:
    """Return whether the index keeps words with letters outside ASCII; PostgreSQL with LC_CTYPE `C` does not."""
    if connection.vendor != "postgresql":
        return True
    with connection.cursor() as cursor:
        cursor.execute("SELECT 'ü' ~ '[[:alnum:]]'")
        return bool(cursor.fetchone()[0])


def payload_text(payload: bytes) -> str:
    r"""Return a payload, or its beginning, as the text that is stored and searched.

    Escapes that JSON does not need, such as `\u00fc`, are decoded. Valid JSON stays valid, with the same value.
    """
    return decode_escapes(payload.decode("utf-8", "replace"))


def decode_escapes(text: str) -> str:
    r"""Return a text of JSON with characters instead of their `\uXXXX` escapes, except where JSON requires these."""
    return _ESCAPE.sub(_decode_escape, text) if "\\u" in text else text


def _decode_escape(match: re.Match[str]) -> str:
    """Return the escaped character; the escape itself for a control character, quote, backslash or lone surrogate."""
    if match["high"]:
        return chr(0x10000 + ((int(match["high"], 16) - 0xD800) << 10) + int(match["low"], 16) - 0xDC00)
    character = chr(int(match["code"] or "0", 16))
    is_needed = character < " " or character in '"\\' or "\ud800" <= character <= "\udfff"
    return match[0] if is_needed else character


def parse_terms(text: str) -> Terms:
    """Return the terms of a text, which are separated by spaces. Raise RequestInvalid if it has no letter or digit."""
    terms = [words for term in decode_escapes(text).split()[:_MAX_TERMS] if (words := _WORD.findall(term))]
    if not terms:
        raise RequestInvalid("text: Must contain a letter or a digit.")
    return terms


def holds_text(text: str, *, after: int = 0, through: int | None = None) -> RawSQL:
    """Return the condition for runs that contain each term of a text, with ids above `after` and up to `through`.

    A row contains a term if it has the words of the term in sequence. The last word may be the beginning of a longer
    one, unless it is a single character, which begins too many. Raise RequestInvalid.
    """
    parameters = [_render(text), after, _MAX_ID if through is None else through]
    return RawSQL(_HOLDS_TEXT[connection.vendor], parameters, output_field=BooleanField())  # noqa: S611 (parameters)


def holds_terms(terms: Terms, *texts: str) -> bool:
    """Return whether texts contain each term, by the rules of the index."""
    words = f" {' '.join(_WORD.findall(_fold(' '.join(texts))))} "
    return all(f" {_fold(' '.join(term))}{'' if _is_prefix(term) else ' '}" in words for term in terms)


def _render(text: str) -> str:
    terms = parse_terms(text)
    if connection.vendor == "postgresql":
        return " & ".join(f"({' <-> '.join(words)}{':*' if _is_prefix(words) else ''})" for words in terms)
    return " AND ".join(f'"{" ".join(words)}"{" *" if _is_prefix(words) else ""}' for words in terms)


def _is_prefix(words: Sequence[str]) -> bool:
    """Return whether the last word of a term may be the beginning of a longer one."""
    return len(words[-1]) > 1


def _fold(text: str) -> str:
    """Return a text without case and accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))


def _execute(database: BaseDatabaseWrapper, statements: dict[str, list[str]]) -> None:
    with database.cursor() as cursor:
        for statement in statements.get(database.vendor, []):
            cursor.execute(statement)
