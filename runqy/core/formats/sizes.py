"""Parse and format sizes in bytes: `52428800`, `50MiB`."""

_UNITS = {"": 1, "b": 1} | {
    prefix + rest: 1 << bits for prefix, bits in (("k", 10), ("m", 20), ("g", 30)) for rest in ("", "b", "ib")
}
_MAX_DIGITS = 18


def parse_bytes(text: str) -> int:
    """Return a size in bytes. Each unit is a power of 1,024. Raise ValueError."""
    digits = text.rstrip("BKMGIbkmgi ").strip()
    unit = text.strip()[len(digits) :].strip().lower()
    if not (digits.isascii() and digits.isdigit()) or len(digits) > _MAX_DIGITS or unit not in _UNITS:
        raise ValueError(f"{text[:64]!r} is not a size such as 52428800 or 50MiB")
    return int(digits) * _UNITS[unit]


def format_short(size_bytes: int) -> str:
    """Return a size in the largest unit in which it is a whole number: `50MiB`, `1500`."""
    number, unit = _split(size_bytes)
    return f"{number}{unit}"


def humanize(size_bytes: int) -> str:
    """Return a size in the largest unit in which it is a whole number: `50 MiB`, `1500 bytes`."""
    number, unit = _split(size_bytes)
    return f"{number} {unit or 'bytes'}"


def _split(size_bytes: int) -> tuple[int, str]:
    for bits, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size_bytes >> bits and not size_bytes % (1 << bits):
            return size_bytes >> bits, unit
    return size_bytes, ""
