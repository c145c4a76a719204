"""The service `setup` of compose.yaml: generates missing secrets, and publishes the examples as a git repository.

    compose_setup.py FOLDER UID

FOLDER has one subfolder for each volume. Runs as root, to give each file to the user that reads it. Prints nothing, and
changes no secret that exists.
"""

import base64
import hashlib
import os
import secrets
import sys
from pathlib import Path

from runqy.core.environment.home import get_or_create_secret
from runqy.core.environment.process import restrict_new_files

_SERVER_SECRETS = ("api_key", "worker_api_key", "metrics_token", "secret_key", "database_password", "redis_password")
# The user `default` is off but keeps its permissions: Redis 7 and Valkey 8 run the transactions of the append-only file
# as this user when they start, and lose those that it may not run.
_VALKEY = """\
appendonly yes
maxmemory-policy noeviction
user default off ~* &* +@all
user health on nopass resetkeys resetchannels -@all +ping
user runqy on #{password_hash} allkeys allchannels allcommands
"""


def main(root: Path, uid: int) -> None:
    """Write the volumes. Server and worker run as the user `uid`; the worker reads its key as root before that."""
    restrict_new_files()
    server, examples = (_open_to_one(root / name, uid) for name in ("server", "examples"))
    worker = _open_to_one(root / "worker", os.geteuid())
    for name in _SERVER_SECRETS:
        get_or_create_secret(server, name)
    get_or_create_secret(server, "vault_master_key", _generate_master_key)
    password = _read(server / "redis_password")
    _write(server / "redis_url", f"redis://runqy:{password}@valkey:6379/0")
    _write(worker / "api_key", _read(server / "worker_api_key"))
    for path in server.iterdir():
        os.chown(path, uid, uid, follow_symlinks=False)  # the server can write there, and this is root
    # The image of PostgreSQL reads it as root.
    _write(root / "postgres" / "password", _read(server / "database_password"))
    # The image of Valkey reads it as a user of its own, whose number is the image's choice: it has a hash only.
    _write(root / "valkey" / "valkey.conf", _VALKEY.format(password_hash=hashlib.sha256(password.encode()).hexdigest()))
    (root / "valkey" / "valkey.conf").chmod(0o444)
    _publish_examples(examples, uid)


def _publish_examples(folder: Path, uid: int) -> None:
    if os.geteuid() == 0:  # git refuses a repository of another user
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    # Reads the settings, and so the secrets that now exist.
    from runqy.stack.queue_files import publish_examples  # noqa: PLC0415
    from runqy.stack.stop_signals import catch_signals  # noqa: PLC0415

    with catch_signals() as stop:
        publish_examples(folder, stop)


def _generate_master_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode("ascii")


def _open_to_one(folder: Path, uid: int) -> Path:
    folder.chmod(0o700)
    os.chown(folder, uid, uid)
    return folder


def _read(path: Path) -> str:
    return path.read_text("ascii").strip()


def _write(path: Path, text: str) -> None:
    """Replace a file at once: the services of an earlier start may read it."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with draft.open("x", encoding="ascii") as file:  # x: never through a link that the server has put there
        file.write(f"{text}\n")
    draft.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
