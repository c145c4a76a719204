"""The commands export_vault and import_vault."""

import os
import pty
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from runqy.audit.models import AuditRecord
from tests.vaults.test_vaults import SECRET, fill
from vaults import operations
from vaults.models import Vault
from vaults.worker_secrets import get_worker_secrets

pytestmark = pytest.mark.usefixtures("configuration")

PHRASE = "correct horse battery"


@pytest.fixture
def phrase(tmp_path: Path) -> str:
    """Return the option with a file that has the passphrase."""
    (tmp_path / "phrase").write_text(f"{PHRASE}\nnot this line\n")
    return f"--passphrase-file={tmp_path / 'phrase'}"


def run(name: str, *args: object) -> str:
    """Run a command and return its output."""
    out = StringIO()
    call_command(name, *map(str, args), stdout=out, stderr=out)
    return out.getvalue()


def refused(name: str, *args: object) -> str:
    """Run a command that fails and return its error."""
    with pytest.raises(CommandError) as caught:
        run(name, *args)
    return str(caught.value)


def test_a_vault_is_exported_to_a_private_file_and_imported(tmp_path: Path, phrase: str) -> None:
    fill(A=SECRET, B="2")
    file = tmp_path / "vault.json"

    assert f"The vault api-keys was exported to {file}." in run("export_vault", "api-keys", "--output", file, phrase)
    assert file.stat().st_mode & 0o777 == 0o600
    assert SECRET.encode() not in file.read_bytes()
    operations.set_entry(vault="api-keys", key="B", value="3")
    operations.set_entry(vault="api-keys", key="C", value="4")
    dry_run = run("import_vault", file, "--dry-run", phrase)
    done = run("import_vault", file, "--replace", phrase)

    changes = "changed: B\nremoved: C\nExisting vault api-keys, 1 unchanged. "
    assert (dry_run, done) == (f"{changes}Nothing was changed.\n", f"{changes}It is published.\n")
    assert get_worker_secrets(["api-keys"]).values == {"A": SECRET, "B": "2"}
    actors = AuditRecord.objects.filter(action__in=["vault.exported", "vault.imported"]).values_list(
        "actor_name", flat=True
    )
    assert set(actors) == {"export_vault", "import_vault"}


def test_a_vault_is_imported_under_another_name(tmp_path: Path, phrase: str) -> None:
    fill(A="1")
    run("export_vault", "api-keys", "--output", tmp_path / "file", phrase)

    output = run("import_vault", tmp_path / "file", "--name=copy", phrase)

    assert output == "added: A\nNew vault copy, 0 unchanged. It is published.\n"
    assert get_worker_secrets(["copy"]).values == {"A": "1"}


def test_errors_are_reported_without_a_traceback(tmp_path: Path, phrase: str, settings: Any) -> None:
    fill(A="1")
    file = tmp_path / "file"
    run("export_vault", "api-keys", "--output", file, phrase)
    (tmp_path / "short").write_text("short")
    (tmp_path / "other").write_text("another passphrase")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "junk").write_text("junk")

    assert "File exists" in refused("export_vault", "api-keys", "--output", file, phrase)
    assert "No vault 'gone'" in refused("export_vault", "gone", "--output", tmp_path / "new", phrase)
    assert not (tmp_path / "new").exists()
    assert "12 to 1024" in refused("export_vault", "api-keys", "--output", "x", f"--passphrase-file={tmp_path}/short")
    assert "No such file" in refused("export_vault", "api-keys", "--output", "x", f"--passphrase-file={tmp_path}/gone")
    assert "not UTF-8" in refused("export_vault", "api-keys", "--output", "x", f"--passphrase-file={tmp_path}/binary")
    assert "replace it, or use another name" in refused("import_vault", file, phrase)
    assert "wrong passphrase" in refused("import_vault", file, f"--passphrase-file={tmp_path}/other")
    assert "Not an export of a vault" in refused("import_vault", tmp_path / "junk", phrase)
    assert "cannot be read" in refused("import_vault", tmp_path / "gone", phrase)
    settings.RUNQY_VAULT_MASTER_KEY = ""
    assert "RUNQY_VAULT_MASTER_KEY" in refused("import_vault", file, "--name=b", phrase)
    assert list(Vault.objects.values_list("name", flat=True)) == ["api-keys"]


def test_a_passphrase_is_read_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(A="1")
    monkeypatch.setattr(sys, "stdin", StringIO(f"{PHRASE}\n"))
    run("export_vault", "api-keys", "--output", tmp_path / "file", "--passphrase-file=-")
    monkeypatch.setattr(sys, "stdin", StringIO(PHRASE))

    assert "added: A" in run("import_vault", tmp_path / "file", "--name=copy", "--passphrase-file=-")


def test_a_passphrase_is_never_an_argument(tmp_path: Path) -> None:
    fill(A="1")

    with pytest.raises(CommandError, match="unrecognized arguments"):
        run("export_vault", "api-keys", "--output", tmp_path / "file", f"--passphrase={PHRASE}x")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        pytest.param((PHRASE, PHRASE), "The passphrase is right.", id="twice the same"),
        pytest.param((PHRASE, "another passphrase"), "The passphrases do not match.", id="a slip"),
        pytest.param(("short", "short"), "12 to 1024 characters", id="too short"),
    ],
)
def test_a_new_passphrase_is_entered_twice_and_not_echoed(typed: tuple[str, str], message: str) -> None:
    code = (
        "from django.core.management import CommandError\n"
        "from vaults.management.passphrases import read_passphrase\n"
        "try: print('The passphrase is right.' if read_passphrase(None, is_new=True) == %r else 'It is another.')\n"
        "except CommandError as error: print(error)\n"
    )
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code % PHRASE], stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    )
    os.close(follower)
    output = _until(leader, b"Passphrase: ")
    os.write(leader, f"{typed[0]}\n".encode())
    output += _until(leader, b"Passphrase again: ")
    os.write(leader, f"{typed[1]}\n".encode())
    output += _until(leader, message.encode())
    process.wait(timeout=30)
    os.close(leader)

    assert typed[0].encode() not in output


def test_without_a_terminal_the_error_names_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO(""))

    assert "use --passphrase-file" in refused("export_vault", "api-keys", "--output", tmp_path / "file")


def _until(terminal: int, text: bytes) -> bytes:
    """Read the output of a terminal until it contains a text."""
    output = b""
    while text not in output:
        output += os.read(terminal, 1024)
    return output
