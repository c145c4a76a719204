"""Reads numbers that stand in Redis where workers may write: anything may stand there."""

MOST_DIGITS = 20
"""Of 64 bits there are at most 20; Python refuses to read thousands."""


def read_number(text: bytes | str | None) -> int | None:
    """Return a whole number of 64 bits that is not negative; None for anything else."""
    if text is None or len(text) > MOST_DIGITS or not (text.isascii() and text.isdigit()):
        return None
    return int(text)


def read_score(score: bytes | str | None) -> int | None:
    """Return the score of a sorted set in whole units; None where there is none, or an infinite one."""
    number = float(score) if score else float("inf")
    return int(number) if abs(number) < 10**MOST_DIGITS else None
