"""Count the files that a request passes: those that a reader of the code has to open."""

import json
import subprocess

from tools.benchmarks.report import Report
from tools.benchmarks.scenarios import Sampling
from tools.benchmarks.stack import Stack

FILES = {"POST /queue/add": 25, "PUT of a vault entry": 30, "POST /worker/register": 35}
MOVES = {"POST /queue/add": 60}


def measure_calls(stack: Stack, report: Report, sampling: Sampling) -> None:
    """Count the files, and the calls between them, of requests that DRF serves."""
    words = [str(stack.source.python), "-m", "tools.benchmarks.apps.calls"]
    found = json.loads(subprocess.check_output(words, cwd=stack.source.root, env=stack.env, text=True))
    report.section("Files of ours that a request passes on DRF's way")
    for what, counted in found.items():
        report.figure(f"{what}: files", counted["files"], "", goal=FILES[what])
        report.figure(f"{what}: calls from one to another", counted["moves"], "", goal=MOVES.get(what, 0))
    report.failures({what: int(counted["status"] >= 300) for what, counted in found.items()})
