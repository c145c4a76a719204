"""How a queue stands in the audit."""

from collections.abc import Mapping

import msgspec

from queues.definitions import QueueSpec
from runqy.audit.changes import differences
from runqy.audit.operations import record

_GROUPS = ("deployment", "limits")


def record_queue(action: str, name: str, *, old: QueueSpec | None, new: QueueSpec | None) -> None:
    """Record what became of a queue; None: there was, or is, none. Nothing for one that stays as it was.

    Values of environment variables are not kept: people put secrets there, though vaults are the place.
    """
    before, after = _fields(old), _fields(new)
    secrets = {field for field in {*before, *after} if field.startswith("deployment.env_vars.")}
    if changes := differences(before, after, secrets=secrets):
        record(action=action, object_kind="queue", object_name=name, changes=changes)


def _fields(spec: QueueSpec | None) -> Mapping[str, object]:
    """Return the fields of a queue by names such as `limits.max_retry`."""
    if spec is None:
        return {}
    fields: dict[str, object] = msgspec.to_builtins(spec)
    for group in _GROUPS:
        fields |= {f"{group}.{name}": value for name, value in fields.pop(group).items()}  # type: ignore[attr-defined]
    env_vars: Mapping[str, str] = fields.pop("deployment.env_vars")  # type: ignore[assignment]
    return fields | {f"deployment.env_vars.{name}": value for name, value in env_vars.items()}
