"""The packages beside `runqy`, and the refusal to run beside packages of other distributions that have their names.

They are found when their code runs in place of runqy's, or when they were installed into the same folder, where an
installer replaces one's files by the other's without a word.
"""

from importlib.util import find_spec
from pathlib import Path

APPS = ("vaults", "queues", "tasks", "workers", "webhooks", "schedules", "batches", "alerts")
"""Django's apps beside `runqy`. Each may import those before it, except that batches know nothing of schedules."""
_ROOT = Path(__file__).parents[3]


class ForeignPackage(SystemExit):
    """Another package has the name of one of runqy's. The process exits with the message."""

    def __init__(self, name: str, origin: str) -> None:
        *others, last = sorted(APPS)
        names = f"{', '.join(others)} or {last}"
        super().__init__(
            f"runqy: the package {name} of {origin} is not runqy's; "
            f"install runqy into an environment of its own, in which nothing else is named {names}."
        )


def require_own_packages() -> None:
    """Raise ForeignPackage if one is first on Python's path, or installed beside runqy."""
    for name in sorted(APPS):
        spec = find_spec(name)
        if spec and spec.origin and not _is_same(Path(spec.origin).parent, _ROOT / name):
            raise ForeignPackage(name, spec.origin)
    # In 70 distributions this takes 11 ms, and importlib.metadata.packages_distributions 200 ms.
    for record in _ROOT.glob("*.dist-info/RECORD"):
        distribution = record.parent.name.removesuffix(".dist-info")
        if not distribution.startswith("runqy-"):
            content = b"\n" + record.read_bytes()
            for name in sorted(APPS):
                if f"\n{name}/".encode() in content:
                    raise ForeignPackage(name, distribution.replace("-", " "))


def _is_same(found: Path, own: Path) -> bool:
    return found == own or found.resolve() == own.resolve()
