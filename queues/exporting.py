"""Writes queues as a queue file, which loads to the same queues again."""

import io
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from queues.definitions import COUNTED_LIMITS, Deployment, QueueOrder, QueueSpec
from queues.written import write_spec
from runqy import durations

__all__ = ["write_queue_file"]

_UNSAID: dict[str, Any] = {"order": QueueOrder.WEIGHTED.value, "sub_queues": [], "input": [], "output": []}
_UNSAID_DEPLOYMENT: dict[str, Any] = {
    "branch": Deployment.__dataclass_fields__["branch"].default,
    "code_path": "",
    "startup_timeout_secs": Deployment.__dataclass_fields__["startup_timeout_s"].default,
    "requirements_file": Deployment.__dataclass_fields__["requirements_file"].default,
    "env_vars": {},
    "redis_storage": True,
    "vaults": [],
    "git_token": "",
    "limits": {},
}
"""What says nothing, because it is so without being written."""


_BOOLEANS_OF_YAML_1_1 = {"y", "n", "yes", "no", "on", "off"}


class _Representer(SafeRepresenter):
    """Writes each list and mapping out, for anchors are no help to a reader, and quotes what some readers mistake."""

    def ignore_aliases(self, data: Any) -> bool:
        """Repeat what occurs twice."""
        return True

    def represent_str(self, data: str) -> ScalarNode:
        """Quote what YAML 1.1 takes for a boolean, and what is no printable line."""
        style = "'" if data.lower() in _BOOLEANS_OF_YAML_1_1 else ""
        style = style if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Representer.add_representer(str, _Representer.represent_str)


def write_queue_file(specs: Iterable[QueueSpec]) -> bytes:
    """Return the queue file of some queues. Whether they are enabled is nothing that a queue file says.

    Secrets are not in it, because they are not in a queue: it names its vaults and where its git token is.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style, yaml.width = False, 1 << 20
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.BytesIO()
    yaml.dump({"queues": {spec.name: _stated(spec) for spec in specs}}, text)
    return text.getvalue()


def _stated(spec: QueueSpec) -> dict[str, Any]:
    """Return a queue as a person would write it: without what goes without saying."""
    written = msgspec.json.decode(msgspec.json.encode(write_spec(spec)))  # lists, where there are tuples
    deployment: dict[str, Any] = _without(written["deployment"], _UNSAID_DEPLOYMENT)
    del deployment["mode"]
    if limits := deployment.get("limits"):
        deployment["limits"] = {
            name: durations.write_s(value) if value and name not in COUNTED_LIMITS else value
            for name, value in limits.items()
        }
    if spec.sub_queues:
        del written["priority"]
    return _without(written, _UNSAID) | {"deployment": deployment} | _schemas(written)


def _schemas(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the payload schemas that there are, to stand last."""
    return {name: [_field(field) for field in written[name]] for name in ("input", "output") if written[name]}


def _field(written: dict[str, Any]) -> dict[str, Any]:
    """Return a payload field as a person would write it."""
    types = written["type"]
    return _without(written, {"required": False}) | {"type": types[0] if len(types) == 1 else types}


def _without(written: Mapping[str, Any], unsaid: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping without what says nothing."""
    return {name: value for name, value in written.items() if name not in unsaid or value != unsaid[name]}
