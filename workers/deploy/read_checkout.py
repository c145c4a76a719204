"""Read what a deployment depends on from a checkout: whether its paths stay inside, and the key of its requirements.

Run by path in an isolated process with limits, because the repository determines how much there is to read:

    read_checkout.py <checkout> <code_path> <requirements_file> <commit> <interpreter>

Prints a JSON object with the fields of `CheckoutContent` (virtualenvs.py). Imports only the standard library.
"""

import errno
import hashlib
import json
import re
import sys
from pathlib import Path

MAX_FILES = 100
MAX_BYTES = 4 << 20
MAX_LINE_CHARS = 64 << 10
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
"""What a machine out of resources reports, which says nothing about the repository."""

# Each pattern takes linear time: none starts again at each character of a run that it has already passed.
_NESTED = re.compile(r"^(?:-r|-c|--requirement|--constraint)[ =]*(?P<file>\S+)")
_CONTINUED = re.compile(r"\\\r?\n")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_COMMENT_LINE = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
_REMOTE_URL = re.compile(r"(?<![\w+.-])(?![\w+.-]*file:)[\w+.-]+://\S*")
_LOCAL = re.compile(r"^(?:-e|--editable|\.)|\bfile:|\.(?:whl|zip|tar|t[gbx]z2?)\b")
_PATH = re.compile(r"/|(?:@|(?:^|\s)(?:-e|--editable|-f|--find-links))[ =]*[^\s-]")
"""A path, in a line without remote URLs: text with a slash, or what follows a name or an option that takes a path."""


class Refused(Exception):
    """The repository may not be deployed."""


class TooLarge(Exception):
    """The requirements have more content than is read."""


def main() -> None:
    checkout, code_path, requirements_file, commit, interpreter = sys.argv[1:]
    try:
        content = read(Path(checkout), code_path, requirements_file, commit, interpreter)
    except Refused as error:
        content = {"refused": str(error)}
    except TooLarge as error:
        content = {"failed": str(error)}
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise  # the worker finds it in the traceback, and tries again
        content = {"failed": f"{requirements_file} cannot be read: {error.strerror}"}
    sys.stdout.write(json.dumps(content))


def read(checkout: Path, code_path: str, requirements_file: str, commit: str, interpreter: str) -> dict[str, object]:
    """Return the fields of CheckoutContent. Raise Refused, TooLarge."""
    has_code = resolve(checkout, code_path).is_dir()
    file = resolve(checkout, code_path, requirements_file)
    texts = requirement_texts(file)
    return {
        "has_code": has_code,
        "has_requirements": bool(texts and texts[0][1].strip()),
        "key": requirements_key(texts, commit=commit, interpreter=interpreter),
    }


def resolve(checkout: Path, *parts: str) -> Path:
    """Return a path in a checkout. Raise Refused if symbolic links lead out of it or in a circle."""
    path = checkout.joinpath(*parts)
    name = str(path.relative_to(checkout))
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:  # Path.resolve raises RuntimeError for it before Python 3.13, and nothing since
            raise Refused(f"{name!r} is a loop of symbolic links") from None
    if not path.resolve().is_relative_to(checkout.resolve()):
        raise Refused(f"{name!r} is outside the repository")
    return path


def requirements_key(texts: list[tuple[Path, str]], *, commit: str, interpreter: str) -> str:
    """Return a text that changes whenever the virtual environment would."""
    digest = hashlib.sha256(f"{interpreter}\n".encode())
    for path, text in texts:
        digest.update(f"{path.name}\n{text}\n".encode())
        if any(_is_from_checkout(line, path.parent) for line in _logical_lines(path, text)):
            digest.update(commit.encode())  # packages from the checkout change with the commit
    return digest.hexdigest()[:16]


def requirement_texts(file: Path) -> list[tuple[Path, str]]:
    """Return a requirements file, if it exists, and the files that it includes, each once. Raise TooLarge."""
    found: dict[Path, str] = {}
    waiting, left = [file], MAX_BYTES
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        if len(found) > MAX_FILES:
            raise TooLarge(f"{file.name} includes more than {MAX_FILES} files")
        with path.open("rb") as opened:
            content = opened.read(left + 1)
        left -= len(content)
        if left < 0:
            raise TooLarge(f"{file.name} and the files that it includes have more than {MAX_BYTES >> 20} MiB")
        found[path] = content.decode(errors="replace")
        matches = (_NESTED.match(line) for line in _logical_lines(path, found[path]))
        waiting += [path.parent / match["file"] for match in matches if match]
    return list(found.items())


def _logical_lines(path: Path, text: str) -> list[str]:
    """Return the lines of a requirements file as pip reads them: continued lines joined, without comments."""
    joined = _CONTINUED.sub("", _COMMENT_LINE.sub("", text))  # a comment line is not continued
    lines = [_COMMENT.sub("", line).strip() for line in joined.splitlines()]
    if any(len(line) > MAX_LINE_CHARS for line in lines):
        raise TooLarge(f"{path.name} has a line of more than {MAX_LINE_CHARS >> 10} KiB")
    return lines


def _is_from_checkout(line: str, folder: Path) -> bool:
    """Return whether a line may name something in the checkout, which changes with the commit.

    If in doubt, it does: that only rebuilds the environment, while a line that is missed leaves old code in it.
    """
    if nested := _NESTED.match(line):  # a file that cannot be read here may have such a line
        return not _REMOTE_URL.match(nested["file"]) and not (folder / nested["file"]).is_file()
    requirement = line.partition(";")[0]
    return bool(_LOCAL.search(requirement) or _PATH.search(_REMOTE_URL.sub("", requirement)))


if __name__ == "__main__":
    main()
