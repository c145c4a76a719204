"""Draw the output of `make bench ARGS=scale`.

`python -m tools.benchmarks.scale_charts docs/images < tools/benchmarks/scale.txt`
"""

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

WIDTH, HEIGHT = 500, 310
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 46, 56
_COLORS = ("#3f82e0", "#d9713c", "#3a9d6e")  # of a middle brightness: read on white and on black
_ROW = re.compile(r"^  (\d+) (?:process\(es\)|worker\(s\))\s+([\d,]+)  tasks/s", re.MULTILINE)

Curve = Sequence[tuple[float, float]]


def draw_charts(output: str) -> dict[str, str]:
    """Return the charts by the names of their files."""
    sections = dict(re.findall(r"^(\S.*)\n([\s\S]*?)(?=\n\n|\Z)", output, re.MULTILINE))
    curves = {
        title: [(float(x), float(y.replace(",", ""))) for x, y in _ROW.findall(text)]
        for title, text in sections.items()
    }
    web = next(curve for title, curve in curves.items() if title.startswith("Enqueueing"))
    workers = {title.rpartition(": ")[2]: curve for title, curve in curves.items() if title.startswith("Workers")}
    return {
        "scale-web.svg": _draw("Enqueued tasks a second, by web processes", {"Redis alone": web}, lambda x: x),
        "scale-workers.svg": _draw("Completed tasks a second, by workers", workers, math.log10),
    }


def _draw(title: str, curves: Mapping[str, Curve], scale: Callable[[float], float]) -> str:
    xs = [x for x, _ in next(iter(curves.values()))]
    step = 5_000
    top = step * math.ceil(max(y for curve in curves.values() for _, y in curve) / step)

    def left(x: float) -> float:
        share = (scale(x) - scale(xs[0])) / (scale(xs[-1]) - scale(xs[0]))
        return round(_LEFT + 14 + share * (WIDTH - _LEFT - _RIGHT - 28), 1)

    def down(y: float) -> float:
        return round(HEIGHT - _BOTTOM - y / top * (HEIGHT - _TOP - _BOTTOM), 1)

    parts = [f'<text x="8" y="20" class="title">{title}</text>']
    for y in range(0, top + 1, step):
        parts.append(f'<path class="grid" d="M{_LEFT} {down(y)}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{down(y) + 5}" text-anchor="end">{y:,}</text>')
    parts += [f'<text x="{left(x)}" y="{HEIGHT - _BOTTOM + 22}" text-anchor="middle">{x:g}</text>' for x in xs]
    for (name, curve), color, position in zip(curves.items(), _COLORS, range(3), strict=False):
        points = " ".join(f"{left(x)},{down(y)}" for x, y in curve)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{left(x)}" cy="{down(y)}" r="4" fill="{color}"/>' for x, y in curve]
        parts.append(f'<circle cx="{_LEFT + 6 + 150 * position}" cy="{HEIGHT - 10}" r="4" fill="{color}"/>')
        parts.append(f'<text x="{_LEFT + 16 + 150 * position}" y="{HEIGHT - 5}">{name}</text>')
    style = "text{font:14px system-ui,sans-serif;fill:#808080}.title{font-weight:600}.grid{stroke:#80808040}"
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>\n' + "\n".join(parts) + "\n</svg>\n"


if __name__ == "__main__":
    for name, chart in draw_charts(sys.stdin.read()).items():
        Path(sys.argv[1], name).write_text(chart)
