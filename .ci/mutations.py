#!/usr/bin/env python3
"""Break the product in 150 places, one at a time, and see which of them the tests notice.

    .venv/bin/python .ci/mutations.py select            write .ci/mutations.json, by a fixed seed
    .venv/bin/python .ci/mutations.py reach WORK        run the tests with coverage: which of them reach each line
    .venv/bin/python .ci/mutations.py run WORK          break each place in a clone of this commit, and run those tests

WORK is a directory outside of the clone, which keeps what `reach` found and the outcome of each place: a run that was
interrupted goes on where it was. Both pass words that follow `--` to pytest (`-m "not browser"`), and make a clone with
an environment of its own.

A place is found again by its function and its text, so that the list holds while lines move; .ci/moved.json has the
paths of files that have moved since. One that is gone counts neither as noticed nor as unnoticed. A run that exceeds
its time counts as noticed.
"""

import argparse
import ast
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST, MOVED = ROOT / ".ci/mutations.json", ROOT / ".ci/moved.json"
PACKAGES = ("runqy", "queues", "tasks", "workers", "vaults", "webhooks", "alerts", "schedules", "batches", "sdk")
LEFT_OUT = ("/migrations/", "/lua/", "_pb2.py")
COUNT, SEED = 150, 36
LIMIT_S = 900
COVERAGE = "coverage==7.11.0"
COVERAGE_RC = """
[run]
source = {source}
data_file = {work}/coverage/data
context = ${{PYTEST_CURRENT_TEST-start}}
parallel = true
sigterm = true
patch = subprocess
"""
PLUGIN = """
import coverage, pytest

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    if current := coverage.Coverage.current():
        current.switch_context(item.nodeid)
    yield
    if current:
        current.switch_context("")
"""
OPPOSITES: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
}  # fmt: skip
SIMPLE = (ast.Assign, ast.AugAssign, ast.Expr, ast.AnnAssign)


@dataclass(frozen=True, order=True)
class Mutation:
    """One place. `number` counts the places in its function that look alike."""

    path: str
    function: str
    kind: str
    old: str
    new: str
    number: int


@dataclass(frozen=True)
class Place:
    """Where a mutation is now: the characters from `begin` to `end` become `new`."""

    mutation: Mutation
    begin: int
    end: int
    line: int


def find_places(path: str) -> Iterator[Place]:
    """Yield all places of a file, which need not be distinct."""
    source = (ROOT / path).read_text()
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    data, seen = source.encode(), Counter[tuple[str, ...]]()

    def place(function: str, kind: str, nodes: tuple[ast.stmt | ast.expr, ast.stmt | ast.expr], new: str) -> Place:
        begin = starts[nodes[0].lineno - 1] + nodes[0].col_offset
        end = starts[(nodes[1].end_lineno or 1) - 1] + (nodes[1].end_col_offset or 0)
        key = (function, kind, data[begin:end].decode(), new)
        seen[key] += 1
        return Place(Mutation(path, *key, seen[key]), begin, end, nodes[0].lineno)

    def text(node: ast.AST) -> str:
        return ast.get_source_segment(source, node) or ""

    def walk(node: ast.AST, function: str) -> Iterator[Place]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.JoinedStr):  # Python 3.11 does not know the positions in it
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from walk(child, f"{function}.{child.name}".lstrip("."))
            elif function:
                yield from mutate(child, function)
                yield from walk(child, function)
        if not isinstance(node, ast.Module | ast.ClassDef):  # where the order of assignments rarely says anything
            for name in ("body", "orelse", "finalbody"):
                yield from swap(getattr(node, name, None), function)

    def swap(body: object, function: str) -> Iterator[Place]:
        statements = body if function and isinstance(body, list) else []
        for first, second in itertools.pairwise(statements):
            if isinstance(first, SIMPLE) and isinstance(second, SIMPLE) and not is_docstring(first):
                indent = "\n" + " " * first.col_offset
                yield place(function, "order", (first, second), text(second) + indent + text(first))

    def is_docstring(node: ast.AST) -> bool:
        return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)

    def mutate(node: ast.AST, function: str) -> Iterator[Place]:
        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                yield place(function, "comparison", (node, node), f"{text(left)} {OPPOSITES[type(op)]} {text(right)}")
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test) if not isinstance(test, ast.Constant):
                yield place(function, "condition", (test, test), f"(not ({text(test)}))")
            case ast.BoolOp(op=op, values=values):
                word = " or " if isinstance(op, ast.And) else " and "
                yield place(function, "condition", (node, node), f"({word.join(f'({text(each)})' for each in values)})")
            case ast.Expr(value=ast.Await()):
                yield place(function, "await", (node, node), "pass")
            case ast.Constant(value=bool() as value):
                yield place(function, "constant", (node, node), str(not value))
            case ast.Constant(value=int() | float() as value):
                yield place(function, "constant", (node, node), str(value + 1))

    yield from walk(ast.parse(source), "")


def product_files() -> list[str]:
    files = (path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(path for path in files if not any(part in f"/{path}" for part in LEFT_OUT))


def select() -> None:
    """Write the list: of each package as many as its share of all places, kinds as often as they occur."""
    places = defaultdict(list)
    for path in product_files():
        for found in find_places(path):
            places[path.split("/")[0]].append(found.mutation)
    total, chance = sum(map(len, places.values())), random.Random(SEED)  # noqa: S311 (the same each time)
    shares = {package: len(found) * COUNT / total for package, found in places.items()}
    counts = {package: int(share) for package, share in shares.items()}
    by_rest = sorted(shares, key=lambda package: (counts[package] - shares[package], package))
    for package in by_rest[: COUNT - sum(counts.values())]:
        counts[package] += 1
    chosen = [each for package in sorted(places) for each in chance.sample(sorted(places[package]), counts[package])]
    LIST.write_text(json.dumps([asdict(each) for each in sorted(chosen)], indent=1) + "\n")
    MOVED.write_text("{}\n")
    print(f"{len(chosen)} of {total} places: {counts}")


def read_list() -> list[Mutation]:
    """Return the places of the list, with the paths that their files have now."""
    moved = json.loads(MOVED.read_text())
    listed = (Mutation(**each) for each in json.loads(LIST.read_text()))
    return [replace(each, path=moved.get(each.path, each.path)) for each in listed]


def make_clone(work: Path, name: str) -> Path:
    """Return a clone of this commit with an environment of its own."""
    clone = work / name
    shutil.rmtree(clone, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    subprocess.run(["make", "install"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
    return clone


def reach(work: Path, words: list[str]) -> None:
    """Run the tests with coverage, and store the tests that reach each line of the product."""
    clone, data = make_clone(work, "reach"), work / "coverage"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    python = clone / ".venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", COVERAGE], check=True)
    (data / "rc").write_text(COVERAGE_RC.format(source=",".join(map(str, map(clone.joinpath, PACKAGES))), work=work))
    (data / "contexts_of_tests.py").write_text(PLUGIN)
    env = os.environ | {"PYTHONPATH": str(data), "COVERAGE_RCFILE": str(data / "rc")}
    command = ["-m", "coverage", "run", "-m", "tests.support.run_pytest", "-p", "contexts_of_tests", "-n", "4"]
    subprocess.run([python, *command, "--dist", "loadscope", *words], cwd=clone, env=env, check=False)
    subprocess.run([python, "-m", "coverage", "combine", "--quiet", "--keep"], env=env, cwd=clone, check=True)
    reader = (
        "import json, sys, coverage; d = coverage.CoverageData(sys.argv[1]); d.read();"
        "json.dump({f[len(sys.argv[2]) + 1:]: d.contexts_by_lineno(f) for f in d.measured_files()}, sys.stdout)"
    )
    with (work / "reach.json").open("w") as found:
        subprocess.run([python, "-c", reader, data / "data", clone], stdout=found, check=True)


def tests_of(path: str, line: int, reached: dict[str, dict[str, list[str]]]) -> list[str]:
    """Return the tests that reach a line, those of its own package first.

    A process that a test starts serves those of its module that follow: the whole module is run.
    """
    wanted = set()
    for context in reached.get(path, {}).get(str(line), ()):
        started_by, _, test = context.partition("|")
        if test:
            wanted.add(test)
        elif "::" in started_by:
            wanted.add(started_by.split("::")[0])
    single = {test for test in wanted if test.split("::")[0] not in wanted or "::" not in test}
    own = f"tests/{path.split('/', maxsplit=1)[0]}"
    return sorted(single, key=lambda test: (not test.startswith(own), test.count("::") == 0, test))


def run(work: Path, words: list[str]) -> int:
    """Try each place that has no outcome yet; return the number of those that no test notices."""
    reached = json.loads((work / "reach.json").read_text())
    outcomes_file, clone = work / "outcomes.json", make_clone(work, "run")
    outcomes = json.loads(outcomes_file.read_text()) if outcomes_file.exists() else {}
    for position, mutation in enumerate(read_list()):
        if str(position) in outcomes:
            continue
        outcome = try_one(clone, mutation, reached, words)
        outcomes[str(position)] = outcome
        outcomes_file.write_text(json.dumps(outcomes, indent=1))
        print(f"{position}: {outcome}: {mutation.path} {mutation.function}: {mutation.old!r} -> {mutation.new!r}")
    counts = Counter(outcome.split(":")[0] for outcome in outcomes.values())
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()))
    return counts["unnoticed"] + counts["not reached"]


def try_one(clone: Path, mutation: Mutation, reached: dict[str, dict[str, list[str]]], words: list[str]) -> str:
    is_there = (ROOT / mutation.path).exists()
    found = [each for each in find_places(mutation.path) if each.mutation == mutation] if is_there else []
    if not found:
        return "gone"
    tests = tests_of(mutation.path, found[0].line, reached)
    if not tests:
        return "not reached"
    file = clone / mutation.path
    original = file.read_bytes()
    file.write_bytes(original[: found[0].begin] + mutation.new.encode() + original[found[0].end :])
    command = [
        str(clone / ".venv/bin/python"),
        "-m",
        "tests.support.run_pytest",
        "-x",
        "-p",
        "no:randomly",
        *words,
        *tests,
    ]
    try:
        ended = subprocess.run(command, cwd=clone, timeout=LIMIT_S, check=False, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        return "noticed: it hangs"
    finally:
        file.write_bytes(original)
    failed = next((line for line in ended.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
    return f"noticed: {failed}" if ended.returncode else f"unnoticed: by {len(tests)} tests or modules"


def main() -> int:
    """Return 1 if a place went unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("select", "reach", "run"))
    parser.add_argument("work", nargs="?", type=Path)
    parser.add_argument("words", nargs="*", metavar="-- word", help="for pytest")
    options = parser.parse_args()
    if options.action == "select":
        select()
        return 0
    if options.work is None:
        parser.error("name a directory outside of the clone")
    work = options.work.resolve()
    if options.action == "reach":
        reach(work, options.words)
        return 0
    return int(run(work, options.words) > 0)


if __name__ == "__main__":
    sys.exit(main())
