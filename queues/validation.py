"""Rules that a queue's specification keeps to, wherever it comes from: file, admin or API."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import SplitResult, urlsplit

import msgspec

from queues.definitions import Deployment, PayloadField, QueueSpec, StatedLimits
from queues.payload_schema import fits
from vaults.names import parse_reference, problem_of_value, problem_of_variable, problem_of_vault_name

HIGHEST_PRIORITY = 1000
HIGHEST_SPAN_S = 10 * 365 * 24 * 3600
LONGEST = {"git_url": 2000, "code_path": 1000, "startup_cmd": 4000, "requirements_file": 1000}
"""How many characters the database keeps."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
NAME_RULE = "a name has 1 to 128 letters, digits, `.`, `_` and `-`, and begins with a letter or digit"
_SCP_LIKE = re.compile(r"(?:[A-Za-z0-9._-]+@)?[A-Za-z0-9][A-Za-z0-9.-]*:(?!//)[^\s:][^\s]*", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at one place of a specification, which is spelled as in queue files."""

    path: Path
    reason: str


def find_problems(spec: QueueSpec) -> list[Problem]:
    """Return all that is wrong with a specification by itself; that other queues answer to its names is not seen."""
    return [
        *_problems_of_names(spec),
        *_problems_of_deployment(spec.deployment),
        *_problems_of_lengths(spec.deployment),
        *_problems_of_limits(spec.limits),
        *_problems_of_fields("input", spec.input),
        *_problems_of_fields("output", spec.output),
    ]


def is_queue_name(text: str) -> bool:
    """Tell whether a queue may have this name."""
    return _NAME.fullmatch(text) is not None


def _problems_of_names(spec: QueueSpec) -> Iterator[Problem]:
    """Check the queue's own name and its sub-queues."""
    if not _NAME.fullmatch(spec.name):
        yield Problem(("name",), NAME_RULE)
    if not spec.sub_queues:
        yield from _problems_of_priority(("priority",), spec.priority)
    for index, sub in enumerate(spec.sub_queues):
        path: Path = ("sub_queues", index)
        if not _NAME.fullmatch(sub.name):
            yield Problem((*path, "name"), NAME_RULE)
        elif len(spec.name) + len(sub.name) > 127:
            yield Problem((*path, "name"), "together with the queue's name it has more than 128 characters")
        yield from _problems_of_priority((*path, "priority"), sub.priority)
    for index in _repeated([sub.name for sub in spec.sub_queues]):
        yield Problem(("sub_queues", index, "name"), "there is another sub-queue of this name")


def _problems_of_priority(path: Path, priority: int) -> Iterator[Problem]:
    """Check one priority."""
    if not 1 <= priority <= HIGHEST_PRIORITY:
        yield Problem(path, f"a priority is from 1 to {HIGHEST_PRIORITY}")


def _problems_of_deployment(deployment: Deployment) -> Iterator[Problem]:
    """Check what workers will hand to git and start."""
    if problem := problem_of_git_url(deployment.git_url):
        yield Problem(("deployment", "git_url"), problem)
    if problem := problem_of_branch(deployment.branch):
        yield Problem(("deployment", "branch"), problem)
    for name in ("code_path", "requirements_file"):
        if not _stays_inside(getattr(deployment, name)):
            yield Problem(("deployment", name), "it must be a relative path that stays inside the repository")
    if problem := _problem_of_command(deployment.startup_cmd):
        yield Problem(("deployment", "startup_cmd"), problem)
    if not 1 <= deployment.startup_timeout_s <= 24 * 3600:
        yield Problem(("deployment", "startup_timeout_secs"), "it must be from 1 second to a day")
    for name, value in deployment.env_vars.items():
        if problem := problem_of_variable(name) or (problem_of_value(value) if value else None):
            yield Problem(("deployment", "env_vars", name), problem)
    for index, vault in enumerate(deployment.vaults):
        if problem := problem_of_vault_name(vault):
            yield Problem(("deployment", "vaults", index), problem)
    for index in _repeated(deployment.vaults):
        yield Problem(("deployment", "vaults", index), "the vault is listed before")
    if deployment.git_token and parse_reference(deployment.git_token) is None:
        yield Problem(("deployment", "git_token"), "it must be vault://<vault>/<key>, never a token itself")


def _problems_of_lengths(deployment: Deployment) -> Iterator[Problem]:
    """Check what the database cannot keep."""
    for name, longest in LONGEST.items():
        if len(getattr(deployment, name)) > longest:
            yield Problem(("deployment", name), f"it must have at most {longest} characters")


def _problems_of_limits(limits: StatedLimits) -> Iterator[Problem]:
    """Check the limits that are stated."""
    if limits.max_retry is not None and not 0 <= limits.max_retry <= 10_000:
        yield Problem(("deployment", "limits", "max_retry"), "it must be from 0 to 10000")
    if limits.max_waiting_tasks is not None and not 0 <= limits.max_waiting_tasks <= 2**31 - 1:
        yield Problem(("deployment", "limits", "max_waiting_tasks"), "it must be from 0 to 2147483647")
    lowest = {"active_timeout": 1, "ttl_completed": 0, "ttl_archived": 1, "pending_timeout": 0}
    lowest |= {"retry_delay": 0, "retry_max_delay": 0}
    for name, least in lowest.items():
        value = getattr(limits, f"{name}_s")
        if value is not None and not least <= value <= HIGHEST_SPAN_S:
            yield Problem(("deployment", "limits", name), f"it must be from {least} s to ten years")


def _problems_of_fields(which: str, schema: Sequence[PayloadField]) -> Iterator[Problem]:
    """Check a payload schema."""
    for index, field in enumerate(schema):
        if any("\0" in text for text in (field.name, field.description, *_texts(field.default_json))):
            yield Problem((which, index), "no database keeps a NUL")
        if not field.name:
            yield Problem((which, index, "name"), "a field has a name")
        if not field.type:
            yield Problem((which, index, "type"), "a field has at least one type")
        if field.default_json is not None and not fits(field.default_json.encode(), field.type):
            yield Problem((which, index, "default"), f"it is not of the type {' or '.join(field.type)}")
    for index in _repeated([field.name for field in schema]):
        yield Problem((which, index, "name"), "there is another field of this name")


def problem_of_git_url(url: str) -> str | None:
    """Return what is wrong with the address of a repository, or None: https, ssh and file go, helpers do not."""
    if not url or _CONTROL.search(url) or url.startswith("-") or " " in url:
        return "it is not the URL of a repository"
    if "://" not in url:
        return None if _SCP_LIKE.fullmatch(url) else "it must be an https, ssh or file URL"
    try:
        parts = urlsplit(url)
    except ValueError:
        return "it is not the URL of a repository"
    return next((problem for problem, is_found in _problems_of_url(parts) if is_found), None)


def _problems_of_url(parts: SplitResult) -> Iterator[tuple[str, bool]]:
    """Give what may be wrong with a URL, and whether it is."""
    is_local = parts.scheme == "file"
    has_user = bool(parts.username) and parts.scheme == "https"
    yield "it must be an https, ssh or file URL", parts.scheme not in ("https", "ssh", "file")
    yield "credentials do not belong into it; use git_token", parts.password is not None or has_user
    yield "it names no host", not is_local and (not parts.hostname or parts.hostname.startswith("-"))
    yield "it names no repository", not parts.path.strip("/")


def problem_of_branch(branch: str) -> str | None:
    """Return what is wrong with the name of a branch or tag, or None."""
    return None if _is_git_ref(branch) else "it is not the name of a branch"


def _is_git_ref(branch: str) -> bool:
    """Tell whether git takes a text for a branch, by the rules of `git check-ref-format`."""
    if not branch or len(branch.encode("utf-8", "replace")) > 250 or branch.startswith("-"):
        return False
    if _CONTROL.search(branch) or any(mark in branch for mark in (" ", "~", "^", ":", "?", "*", "[", "\\", "..", "@{")):
        return False
    parts = branch.split("/")
    return branch != "@" and not any(
        not part or part.startswith(".") or part.endswith((".", ".lock")) for part in parts
    )


def _stays_inside(path: str) -> bool:
    """Tell whether a path is relative and never climbs."""
    pure = PurePosixPath(path)
    return not (_CONTROL.search(path) or "\\" in path or pure.is_absolute() or ".." in pure.parts or path[:1] == "-")


def _problem_of_command(text: str) -> str | None:
    """Return what is wrong with a command, which is started without a shell, or None."""
    if _CONTROL.search(text):
        return "it must be a single line"
    try:
        words = shlex.split(text)
    except ValueError as error:
        return f"it cannot be split into words: {error}"
    return None if words and words[0] else "it names no program"


def _repeated(names: Sequence[str]) -> list[int]:
    """Return the places of names that stand further ahead too."""
    seen: Counter[str] = Counter()
    places = []
    for index, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            places.append(index)
    return places


def _texts(default_json: str | None) -> Iterator[str]:
    """Give all texts in a JSON value."""
    values: list[object] = [] if default_json is None else [msgspec.json.decode(default_json)]
    while values:
        value = values.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            values += value
        elif isinstance(value, dict):
            values += [*value, *value.values()]
