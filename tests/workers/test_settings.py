"""Reading the worker's settings, and rejecting invalid ones."""

import json
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from runqy.errors import WorkerSettingsInvalid
from workers.runtime.settings import RestartSettings, WorkerSettings, load_settings

NEEDED = {"RUNQY_SERVER_URL": "http://127.0.0.1:3000", "RUNQY_API_KEY": "planted", "RUNQY_QUEUES": "mail"}

FILE = """
server:
  url: https://runqy.example.org/
  api_key: ${WORKER_KEY}
worker:
  queues: [inference, "post"]
  concurrency: ${CONCURRENCY:-4}
  shutdown_timeout: 1m30s
git:
  token: "${TOKEN:-none}"
deployment:
  dir: /srv/deployments
  local_dir: /srv/shop
  use_system_site_packages: true
recovery:
  enabled: false
  backoff_factor: 1.5
something: else
"""


def load(file: Path | None, variables: dict[str, str], **options: bool) -> WorkerSettings:
    """Read settings with only these variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RUNQY_")]:
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        return load_settings(file, **options)


def written(folder: Path, text: str) -> Path:
    file = folder / "config.yml"
    file.write_text(text)
    return file


def test_the_environment_alone_is_enough() -> None:
    settings = load(None, NEEDED)

    assert (settings.server_url, settings.api_key, settings.queues) == ("http://127.0.0.1:3000", "planted", ("mail",))
    assert (settings.concurrency, settings.processes, settings.shutdown_timeout_s) == (None, 1, 30.0)
    assert settings.deployment_dir == Path(".runqy/deployments").absolute()


def test_a_file_is_read_with_its_variables_filled_in(tmp_path: Path) -> None:
    settings = load(written(tmp_path, FILE), {"WORKER_KEY": "from-env"})

    assert (settings.server_url, settings.api_key) == ("https://runqy.example.org", "from-env")
    assert (settings.queues, settings.concurrency) == (("inference", "post"), 4)
    assert (settings.shutdown_timeout_s, settings.git_token) == (90.0, "none")
    assert (settings.deployment_dir, settings.has_system_packages) == (Path("/srv/deployments"), True)
    assert settings.local_dir == Path("/srv/shop")
    assert (settings.restarts.is_enabled, settings.restarts.backoff_factor) == (False, 1.5)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    settings = load(written(tmp_path, FILE), NEEDED | {"RUNQY_CONCURRENCY": "9"})

    assert (settings.queues, settings.concurrency) == (("mail",), 9)


def test_a_single_queue_may_be_spelled_in_the_singular(tmp_path: Path) -> None:
    text = "server: {url: 'https://h', api_key: k}\nworker: {queue: mail_high}"

    settings = load(written(tmp_path, text), {})

    assert settings.queues == ("mail_high",)


def test_unknown_settings_are_logged_and_ignored(tmp_path: Path) -> None:
    text = "server: {url: 'https://h', api_key: k}\nworker: {queue: mail, procesess: 2}\nextra: {some: thing}"

    with capture_logs() as logs:
        settings = load(written(tmp_path, text), {})

    unknown = [entry["setting"] for entry in logs if "setting" in entry]  # other threads may log too
    assert unknown == ["extra.some", "worker.procesess"]
    assert settings.processes == 1


def test_removed_settings_are_logged_with_what_happens_instead(tmp_path: Path) -> None:
    text = "server: {url: 'https://h', api_key: k}\nworker: {queue: mail, max_age: never-a-time}"

    with capture_logs() as logs:
        load(written(tmp_path, text), {"RUNQY_KEEP_RELEASES": "9", "RUNQY_MAX_CHECKOUT_BYTES_FILE": "/nowhere"})

    removed = {entry["setting"]: entry["instead"] for entry in logs if entry["event"] == "setting_removed"}
    assert removed == {
        "RUNQY_MAX_AGE (worker.max_age in the configuration file)": "The worker does not end at an age; "
        "RUNQY_MAX_TASKS or `runqy worker drain` end it.",
        "RUNQY_MAX_CHECKOUT_BYTES (deployment.max_checkout_bytes in the configuration file)": "A checkout may take a "
        "tenth of RUNQY_MAX_DEPLOYMENT_BYTES.",
        "RUNQY_KEEP_RELEASES (deployment.keep_releases in the configuration file)": "Three deployments of each queue "
        "are kept.",
    }
    assert not [entry for entry in logs if entry["event"] == "unknown_setting"]


GO = {
    "server.url": "https://h",
    "server.api_key": "k",
    "worker.queues": "mail",
    "worker.concurrency": "2",
    "worker.shutdown_timeout": "5m",
    "bootstrap.retries": "7",
    "bootstrap.retry_delay": "3s",
    "git.ssh_key": "key",
    "git.token": "token",
    "deployment.dir": "/srv/deployments",
    "deployment.use_system_site_packages": "true",
    "recovery.enabled": "false",
    "recovery.max_restarts": "9",
    "recovery.initial_delay": "2s",
    "recovery.max_delay": "1m30s",
    "recovery.backoff_factor": "3",
    "recovery.cooldown_period": "10m",
}
"""The settings of Go's worker, each with a value that is not the default."""


def test_every_setting_of_gos_worker_has_an_effect(tmp_path: Path) -> None:
    sections: dict[str, dict[str, str]] = {}
    for name, value in GO.items():
        section, _, member = name.partition(".")
        sections.setdefault(section, {})[member] = value
    text = "\n".join(f"{section}: {json.dumps(members)}" for section, members in sections.items())

    with capture_logs() as logs:
        read = load(written(tmp_path, text), {})

    assert not [entry for entry in logs if "setting" in entry]
    assert (read.server_url, read.api_key, read.queues, read.concurrency) == ("https://h", "k", ("mail",), 2)
    assert (read.shutdown_timeout_s, read.bootstrap_retries, read.bootstrap_retry_delay_s) == (300, 7, 3)
    assert (read.git_ssh_key, read.git_token) == ("key", "token")
    assert (read.deployment_dir, read.has_system_packages) == (Path("/srv/deployments"), True)
    assert read.restarts == RestartSettings(
        is_enabled=False, max_restarts=9, initial_delay_s=2, max_delay_s=90, backoff_factor=3, cooldown_s=600
    )


def test_a_secret_may_be_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    environ = {**NEEDED, "RUNQY_API_KEY_FILE": str(tmp_path / "key")}
    del environ["RUNQY_API_KEY"]

    assert load(None, environ).api_key == "from-file"


def test_deployments_are_kept_in_the_instance_folder(tmp_path: Path) -> None:
    settings = load(None, NEEDED | {"RUNQY_HOME": str(tmp_path)})

    assert settings.deployment_dir == tmp_path / "deployments"


def test_all_queues_are_not_combined_with_names() -> None:
    assert load(None, NEEDED | {"RUNQY_QUEUES": "*"}).queues == ("*",)
    with pytest.raises(WorkerSettingsInvalid, match=r"RUNQY_QUEUES.*cannot be combined with names"):
        load(None, NEEDED | {"RUNQY_QUEUES": "mail,*"})


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_setting_is_named(name: str) -> None:
    with pytest.raises(WorkerSettingsInvalid, match=name):
        load(None, {key: value for key, value in NEEDED.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNQY_SERVER_URL", "runqy.example.org"),
        ("RUNQY_SERVER_URL", "http://user:secret@host"),
        ("RUNQY_CONCURRENCY", "0"),
        ("RUNQY_CONCURRENCY", "two"),
        ("RUNQY_PROCESSES", "-1"),
        ("RUNQY_SHUTDOWN_TIMEOUT", "30 seconds"),
        ("RUNQY_RECOVERY_ENABLED", "flase"),
        ("RUNQY_RECOVERY_BACKOFF_FACTOR", "0.5"),
        ("RUNQY_API_KEY_FILE", "/nowhere/at/all"),
        ("RUNQY_API_KEY_FILE", "/dev/null"),  # and RUNQY_API_KEY
    ],
)
def test_nonsense_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(WorkerSettingsInvalid, match=name):
        load(None, NEEDED | {name: value})


@pytest.mark.parametrize("text", ["a: [", "- 1", "worker: {queues: [a]}\nworker: {}"])
def test_a_broken_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(WorkerSettingsInvalid, match=r"config\.yml"):
        load(written(tmp_path, text), NEEDED)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkerSettingsInvalid, match="cannot be read"):
        load(tmp_path / "none.yml", NEEDED)


def test_secrets_do_not_show_in_a_representation() -> None:
    assert "planted" not in repr(load(None, NEEDED))


@pytest.mark.parametrize("url", ["http://runqy.example.org", "http://192.168.1.5:3000", "http://127.0.0.1.example.org"])
def test_an_unencrypted_server_on_another_machine_is_refused(url: str) -> None:
    with pytest.raises(WorkerSettingsInvalid, match=r"sent unencrypted\. Use https, or .* --allow-http"):
        load(None, NEEDED | {"RUNQY_SERVER_URL": url})


@pytest.mark.parametrize("url", ["http://localhost:3000", "http://127.8.8.8", "http://[::1]:3000", "https://h"])
def test_an_unencrypted_server_on_this_machine_is_fine(url: str) -> None:
    assert load(None, NEEDED | {"RUNQY_SERVER_URL": url}).server_url == url


def test_an_unencrypted_server_can_be_allowed(tmp_path: Path) -> None:
    environ = NEEDED | {"RUNQY_SERVER_URL": "http://server:3000"}
    file = written(tmp_path, "server: {allow_http: true}")

    assert load(None, environ, allow_http=True).server_url == "http://server:3000"
    assert load(None, environ | {"RUNQY_ALLOW_HTTP": "true"}).server_url == "http://server:3000"
    assert load(file, environ).server_url == "http://server:3000"
