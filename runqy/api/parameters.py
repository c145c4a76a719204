"""Reads the parameters in the path's query, and names what is wrong with them."""

from django.http import HttpRequest

from runqy.errors import RequestInvalid

_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def read_flag(request: HttpRequest, name: str) -> bool:
    """Return a parameter that is true or false; one that is missing is false. Raises RequestInvalid.

    One without a value is refused: whoever writes `?dry_run` does not mean false.
    """
    text = request.GET.get(name, "false")
    if text.lower() not in _FLAGS:
        raise RequestInvalid(errors=[f"{name}: must be true or false"])
    return _FLAGS[text.lower()]
