"""The command line itself."""

import subprocess
import sys

from runqy import __name__ as package


def test_version_is_the_installed_one(run):
    assert run("version").stdout == f"{package} 0.1.0\n"


def test_command_line_imports_no_django():
    program = "import sys, runqy.cli.main; print([m for m in ('django', 'environs', 'gunicorn') if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_server_that_is_not_installed_is_a_sentence(run, monkeypatch):
    monkeypatch.setattr("runqy.cli.main.find_spec", lambda name: None)

    result = run("up")

    assert result.exit_code == 1
    assert result.stderr == "runqy: the server is not installed here: pip install '.[server]' in a clone\n"
