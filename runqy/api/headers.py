"""Sets and lists headers of answers that are known to be well formed.

Django looks through each name and value for line breaks and other alphabets whenever it is set. For the headers that
every answer of the API carries, which are the server's own, that takes as long as reading a body.
"""

from collections.abc import Mapping

from django.http.response import HttpResponseBase

Stored = dict[str, tuple[str, str]]
"""Headers as Django keeps them: by their names in lower case."""


def stored(headers: Mapping[str, str]) -> Stored:
    """Return headers in the form in which `set_stored` takes them. They must be of ASCII and without line breaks."""
    return {name.lower(): (name, value) for name, value in headers.items()}


def set_stored(response: HttpResponseBase, headers: Stored) -> None:
    """Set headers of an answer."""
    response.headers._store.update(headers)


def list_headers(response: HttpResponseBase) -> list[tuple[str, str]]:
    """Return the headers of an answer, in order."""
    return list(response.headers._store.values())


def is_page(response: HttpResponseBase) -> bool:
    """Tell whether an answer is for a browser to show."""
    _, content_type = response.headers._store.get("content-type", ("", ""))
    is_text: bool = content_type.startswith("text/")
    return is_text
