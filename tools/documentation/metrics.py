"""The table of metrics, from their declarations."""

from runqy.server.metrics.declarations import METRICS
from tools.documentation.tables import cell, table


def metric_table() -> str:
    rows = [
        (f"`{info.name}`", info.kind, ", ".join(f"`{label}`" for label in info.labels), cell(info.text))
        for info in METRICS.values()
    ]
    return table(("metric", "type", "labels", "value"), rows)
