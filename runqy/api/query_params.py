"""Query parameters of requests."""

from rest_framework.request import Request

from runqy.errors import RequestInvalid

_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def read_flag(request: Request, name: str) -> bool:
    """Return a boolean parameter, false when missing. Raises RequestInvalid.

    An empty value is refused: a client that sends `?dry_run` does not mean false.
    """
    text = request.query_params.get(name, "false")
    if text.lower() not in _FLAGS:
        raise RequestInvalid(errors=[f"{name}: must be true or false"])
    return _FLAGS[text.lower()]


def read_int(request: Request, name: str, *, lowest: int, highest: int) -> int | None:
    """Return an integer parameter, None when missing. Raises RequestInvalid."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or not lowest <= int(text) <= highest:
        raise RequestInvalid(errors=[f"{name}: must be an integer from {lowest} to {highest}"])
    return int(text)
