"""Every shell block and every Python block of the documentation runs, or says above it why it does not.

The blocks of a page run in order, in one shell. docs/contributing/writing-documentation.md says what the comments above
them mean.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, Block, Page, pages
from tests.docs.services import services
from tests.docs.terminal import Terminal
from tests.support.git_server import git_server
from tests.support.secret_leaks import SUITE
from tests.support.servers import free_port
from tests.support.wheels import release_wheels

pytestmark = [pytest.mark.docs, pytest.mark.timeout(600)]

PAGES = pages()
SHELLS = {"sh", "shell", "console", "shell-session", "zsh"}
FIRST_TASK = "docs/tutorials/first-task.md"
IS_INSTALLED = "RUNQY_TEST_INSTALL" in os.environ
"""Whether the blocks of environments are typed too; the first task is always installed."""
GIT_USER = {"NAME": "A reader", "EMAIL": "reader@example.com"}


def environment(home: Path, port: int) -> dict[str, str]:
    """Return a reader's environment: a home without settings, the commands of runqy, a git user."""
    (home / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")  # a refused request fails its block
    if not (compiled := home / ".cache/go-build").is_symlink():
        kept = Path.home() / ".cache/go-build"  # to compile Go's own packages takes a minute
        for folder in (kept, compiled.parent):
            folder.mkdir(parents=True, exist_ok=True)
        compiled.symlink_to(kept)
    own = ("RUNQY_", "REDIS_", "DATABASE_", "DJANGO_", "PYTEST_")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(own)},
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PORT": str(port),
        "LANG": "C.UTF-8",
        "WEB_CONCURRENCY": "1",  # a second process takes seconds to start
        "PYTHONUNBUFFERED": "1",
        "PIP_FIND_LINKS": str(release_wheels()),  # as docs/how-to/install.md sets it
        "PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR", os.path.expanduser("~/.cache/pip")),
        "PIP_NO_COMPILE": "1",  # what is never imported
        **{f"GIT_{role}_{part}": text for role in ("AUTHOR", "COMMITTER") for part, text in GIT_USER.items()},
    }


class Stack:
    """A `runqy up` that all pages with `session: stack` share."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.home = folder / ".runqy"
        self._terminal = Terminal(folder, environment(folder, self.port))
        self._terminal.start("runqy up", until="runqy is running")

    def close(self) -> None:
        self._terminal.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    started = Stack(tmp_path_factory.mktemp("stack"))
    yield started
    started.close()


class Reader:
    """Somebody who types the blocks of a page into terminals."""

    def __init__(self, folder: Path, port: int, variables: dict[str, str]) -> None:
        self._folder, self._port, self._variables = folder, port, variables
        self._terminals: dict[str, Terminal] = {}
        self._current = ""
        self._output = ""

    def follow(self, block: Block) -> None:
        code = block.code.replace("localhost:3000", f"localhost:{self._port}")
        if block.is_output:
            assert_output(self._output, code, block.where)
        elif block.title:
            self._write(block.title, code)
        elif block.until:
            terminal = self._terminal(block.terminal or self._current)
            if terminal.is_busy:
                terminal.interrupt()
            terminal.start(code, until=block.until)
        else:
            self._current = block.terminal or self._current
            if block.installed and not IS_INSTALLED:
                link_environment(Path(block.installed.replace("~", str(self._folder), 1)))
                return
            if block.language == "python":
                self._write(".block.py", code)
                code = "python .block.py"
            self._run(code, block)

    def leave(self) -> None:
        for terminal in reversed(self._terminals.values()):  # a worker ends before its server, for which it would wait
            terminal.close()

    def _terminal(self, name: str) -> Terminal:
        if name not in self._terminals:
            self._terminals[name] = Terminal(self._folder, environment(self._folder, self._port) | self._variables)
        return self._terminals[name]

    def _run(self, code: str, block: Block) -> None:
        terminal = self._terminal(self._current)
        assert not terminal.is_busy, f"{block.where}: the terminal is busy; name another"
        status, self._output = terminal.run(code, fails=block.fails)
        assert (status != 0) == block.fails, f"{block.where} ended with {status}:\n{self._output}"

    def _write(self, name: str, text: str) -> None:
        source = self._folder / ".block"
        source.write_text(text)
        path = name if name.startswith("~/") else f'"{name}"'
        status, output = self._terminal(self._current).run(f'mkdir -p "$(dirname {path})" && cp {source} {path}')
        assert status == 0, output


def of_pages(is_one: Callable[[Page], bool]) -> pytest.MarkDecorator:
    """Parametrize a test with the pages that have blocks to run and for which `is_one` returns True."""
    chosen = [page for page in PAGES if is_one(page) and any(block.is_run for block in page.blocks)]
    return pytest.mark.parametrize("page", [pytest.param(page, id=page.name, marks=marks(page)) for page in chosen])


def marks(page: Page) -> list[pytest.MarkDecorator]:
    return [pytest.mark.smoke] * (page.name == FIRST_TASK) + [pytest.mark.release] * page.is_for_releases


def assert_output(output: str, expected: str, where: str) -> None:
    """Compare without white space; `…` stands for anything."""
    pattern = ".*".join(re.escape("".join(part.split())) for part in expected.split("…"))
    if not re.search(pattern, "".join(output.split()), re.DOTALL):
        pytest.fail(f"{where} shows something else than\n{output}")


@pytest.fixture
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Page], Reader]]:
    """Return a function that prepares the folder of a page."""
    readers: list[Reader] = []
    servers = ExitStack()

    def prepare(page: Page) -> Reader:
        if missing := [name for name in page.needs if shutil.which(name) is None]:
            pytest.skip(f"needs {', '.join(missing)}")
        port, variables = free_port(), {}
        if page.session == "stack":
            shared: Stack = request.getfixturevalue("stack")
            port = shared.port
            (tmp_path / ".runqy").symlink_to(shared.home)
            link_environment(tmp_path / ".venv")
        elif page.session == "clone":
            clone(tmp_path / "runqy")
            variables = {"PIP_FIND_LINKS": ""}  # `make run` gives its worker the wheel of the SDK
        elif page.session == "git":
            variables = servers.enter_context(git_host(tmp_path))
        elif page.session == "services":
            variables = servers.enter_context(services(tmp_path, port))
        readers.append(Reader(tmp_path, port, variables))
        return readers[0]

    yield prepare
    for one in readers:
        one.leave()
    servers.close()
    shutil.rmtree(tmp_path, ignore_errors=True)  # environments of deployments are large


def link_environment(folder: Path) -> None:
    """Let a folder be the environment in which the tests run."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(Path(sys.executable).parents[1])


def clone(folder: Path) -> None:
    """Clone the repository, with an environment that is complete and therefore not made anew."""
    subprocess.run(["git", "clone", "-q", "--shared", str(ROOT), str(folder)], check=True)
    link_environment(folder / ".venv")
    for name in ("requirements.txt", "requirements-dev.txt", "pyproject.toml", "sdk/pyproject.toml"):
        os.utime(folder / name, (0, 0))


@contextmanager
def git_host(home: Path) -> Iterator[dict[str, str]]:
    """Run a git host with an empty private repository. Yield the variables of a reader who may read and push."""
    folder = home / "git-host"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(folder / "greeter.git")], check=True)
    token = SUITE.secret()
    with git_server(folder, token=token, is_smart=True) as server:
        url = server.url("greeter.git")
        push = f'[url "{folder.as_uri()}/"]\n\tpushInsteadOf = {server.url("")}\n'
        (home / ".gitconfig").write_text(push)
        yield {
            "GIT_URL": url,
            "GIT_HOST": f"127.0.0.1:{server.port}",
            "GIT_TOKEN": token,
            "GIT_SSL_CAINFO": str(server.certificate),
        }


def test_every_block_names_its_language_and_each_comment_is_understood() -> None:
    blocks = [block for page in PAGES for block in page.blocks]

    assert [block.where for block in blocks if not block.language] == []
    assert [f"{block.where}: write bash" for block in blocks if block.language in SHELLS] == []
    assert [f"{block.where}: {block.comment}" for block in blocks if not block.is_understood] == []


def test_python_blocks_are_python() -> None:
    for block in (block for page in PAGES for block in page.blocks if block.language == "python"):
        compile(block.code, block.where, "exec")


def run_blocks(page: Page, reader: Callable[[Page], Reader]) -> None:
    follower = reader(page)

    for block in page.blocks:
        if block.is_run:
            follower.follow(block)


# Each class runs on a worker of its own, and together their pages are all.


class TestPagesOfTheStack:
    @of_pages(lambda page: page.session == "stack")
    def test_the_blocks_run(self, page: Page, reader: Callable[[Page], Reader]) -> None:
        run_blocks(page, reader)


class TestTutorials:
    @of_pages(lambda page: page.session != "stack" and page.name.startswith("docs/tutorials/"))
    def test_the_blocks_run(self, page: Page, reader: Callable[[Page], Reader]) -> None:
        run_blocks(page, reader)


class TestOtherPages:
    @of_pages(lambda page: page.session != "stack" and not page.name.startswith("docs/tutorials/"))
    def test_the_blocks_run(self, page: Page, reader: Callable[[Page], Reader]) -> None:
        run_blocks(page, reader)
