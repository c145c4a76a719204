"""Find the line of an error's text that says what happened."""

_TRACEBACK = "Traceback (most recent call last):"


def is_traceback(text: str) -> bool:
    """Return whether a text is a traceback of Python, or the end of one."""
    return _TRACEBACK in text or '\n  File "' in text


def find_error_line(text: str) -> str:
    """Return the last line of a traceback, else the first line: what a killed process printed follows its cause."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not is_traceback(text):
        return lines[0].strip() if lines else ""
    unindented = [line for line in lines if not line[0].isspace() and _TRACEBACK not in line]
    return (unindented or lines)[-1].strip()
