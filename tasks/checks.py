"""System checks of the database that holds the history."""

from collections.abc import Collection
from typing import Any

from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import DEFAULT_DB_ALIAS

from tasks.history.fulltext_index import knows_all_letters


@register(Tags.database)
def check_letters(databases: Collection[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Warn if the database knows only the letters of ASCII, since the full-text index splits texts at the others."""
    if DEFAULT_DB_ALIAS not in (databases or ()) or knows_all_letters():
        return []
    message = "The database's LC_CTYPE has only ASCII letters: searches of the history do not find words with others."
    hint = "Move to a database with another LC_CTYPE, such as C.UTF-8 (docs/how-to/postgresql.md)."
    return [Warning(message, hint=hint, id="runqy.W011")]
