"""Vaults and API keys are administered on the real application, and their secrets are never printed."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

import httpx2
import pytest
import redis as redis_py
from django.core.handlers.wsgi import WSGIHandler
from django.utils import timezone
from typer.testing import Result

from alerts.kinds import AlertKind
from alerts.operations import store_findings
from alerts.rules import Finding
from queues.models import QueueSource
from queues.operations import save_queue
from runqy.accounts.identities import key_digest
from runqy.accounts.models import ApiKey
from runqy.broker.broker import Broker
from runqy.broker.workers.records import WorkerState
from runqy.cli import targets
from runqy.cli.client import Client
from runqy.cli.errors import ExitCode
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY, CLIENT_KEY
from tests.support.secret_leaks import SUITE
from tests.support.workers import RECORD, heartbeats

Run = Callable[..., Result]


@pytest.fixture
def admin(run: Run, configuration: None, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command against the application with the administrator's key."""
    transport = httpx2.WSGITransport(app=WSGIHandler())
    monkeypatch.setattr(targets, "make_client", lambda url, key: Client(url, key, transport))
    monkeypatch.setenv("RUNQY_API_KEY", ADMIN_KEY)
    return run


def outputs(results: list[Result]) -> list[str]:
    assert [result.exit_code for result in results] == [0] * len(results), [result.output for result in results]
    return [result.stdout for result in results]


def test_vault_is_created_filled_read_and_deleted(admin: Run) -> None:
    secret = SUITE.secret()

    done = [
        admin("vault", "create", "tokens", "-d", "of services"),
        admin("vault", "import", "tokens", "--dry-run", input=f"A={secret}\nB='two\nlines'\n"),
        admin("vault", "import", "tokens", input=f"A={secret}\n"),
        admin("vault", "import", "tokens", input=f"A={secret}\nB='two\nlines'\n"),
        admin("vault", "set", "tokens", "C", "--plain", input="shown\n"),
        admin("vault", "show", "tokens", "-o", "name"),
        admin("vault", "get", "tokens", "C"),
        admin("vault", "get", "tokens", "A", "-o", "yaml"),
        admin("vault", "deliveries", "tokens"),
        admin("vault", "unset", "tokens", "B", "--expect", "1", "--force"),
        admin("vault", "list"),
        admin("vault", "delete", "tokens", "--force"),
        admin("vault", "list", "-o", "json"),
    ]

    shown = outputs(done)
    assert shown[1:7] == [
        "A\tnew\nB\tnew\n",
        "A\tnew\n",
        "A\tunchanged\nB\tnew\n",
        "tokens/C is at version 1\n",
        "A\nB\nC\n",
        shown[6],
    ]
    assert "value\tshown\n" in shown[6]
    assert "is_secret: true\n" in shown[7]
    assert shown[8:] == ["", "tokens/B deleted\n", "tokens\t2\tof services\n", "tokens deleted\n", "[]\n"]
    assert secret not in "".join(result.output for result in done)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("create", "a/b"), ExitCode.FAILED, "runqy: name: "),
        (("show", "nope"), ExitCode.NOT_FOUND, "runqy: "),
        (("get", "tokens", "NOPE"), ExitCode.NOT_FOUND, "runqy: The vault tokens has no entry 'NOPE'."),
        (("unset", "tokens", "NOPE", "--force"), ExitCode.NOT_FOUND, "runqy: "),
        (("unset", "tokens", "A", "--expect", "7", "--force"), ExitCode.CONFLICT, "runqy: "),
        (("delete", "nope", "--force"), ExitCode.NOT_FOUND, "runqy: "),
        (("delete", "tokens"), ExitCode.USAGE, "runqy: This needs a confirmation."),
        (("create", "tokens"), ExitCode.CONFLICT, "runqy: "),
        (("list", "-k", CLIENT_KEY), ExitCode.DENIED, "runqy: A key with the role client is not allowed"),
    ],
)
def test_errors_of_vaults_have_a_message_and_a_status(
    admin: Run, arguments: tuple[str, ...], status: ExitCode, message: str
) -> None:
    admin("vault", "create", "tokens")
    admin("vault", "set", "tokens", "A", input="x")

    result = admin("vault", *arguments)

    assert (result.exit_code, result.stderr[: len(message)]) == (status, message)


def test_key_is_created_used_listed_and_revoked(admin: Run) -> None:
    created = admin("apikey", "create", "ci", "--role", "admin", "--expires-in", "720h", "--rate-limit", "600/m")
    key = created.stdout.strip()
    row = ApiKey.objects.get()

    limits = ("--expires-in", "24h", "--rate-limit", "60/m")  # `ci` may give no more than it has
    shop = admin("apikey", "create", "shop", "-q", "mail", "-o", "name", "-k", key, *limits)
    only_key = shop.stdout.strip()
    child = str(ApiKey.objects.get(name="shop").pk)
    listed = admin("apikey", "list").stdout
    shown = admin("apikey", "show", child).stdout
    first = admin("apikey", "revoke", str(row.pk), "--force")
    refused = admin("apikey", "list", "-k", key)
    both = admin("apikey", "revoke", str(row.pk), "--descendants", "--force")

    assert created.stderr == f"runqy: The key 'ci' has the id {row.pk}. Store it now: it is not shown again.\n"
    assert "runqy: No such queue yet: mail. The key may use it once it exists.\n" in shop.stderr
    assert key_digest(only_key) == ApiKey.objects.get(name="shop").digest  # not its id: it is shown only now
    assert [line.split("\t")[:5] for line in listed.splitlines()] == [
        [child, "shop", "client", "valid", "mail"],
        [str(row.pk), "ci", "admin", "valid", ""],
    ]
    assert f"created_by\tci\ncreated_by_key\t{row.pk}\n" in shown
    assert first.stdout == f"ci (id {row.pk}) revoked\n"
    assert first.stderr == "runqy: Keys that it created are still accepted: 1. --descendants revokes them too.\n"
    assert refused.exit_code == ExitCode.DENIED
    assert both.stdout == f"ci (id {row.pk}) revoked, and the keys {child} that it created\n"
    assert admin("apikey", "list").stdout == ""
    assert [line.split("\t")[3] for line in admin("apikey", "list", "--all").stdout.splitlines()] == ["revoked"] * 2
    assert key not in listed + shown + first.output + both.output


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("create", "x", "--role", "root"), ExitCode.USAGE, "'root' is not one of"),
        (("create", "x", "--expires-in", "soon"), ExitCode.USAGE, "runqy: --expires-in: 'soon' is not a duration"),
        (("create", "x", "--rate-limit", "many"), ExitCode.FAILED, "runqy: rate_limit: Must be "),
        (("create", "x", "--vault", "v"), ExitCode.FAILED, "vaults"),
        (("create", "x", "-k", CLIENT_KEY), ExitCode.DENIED, "A key with the role client is not allowed"),
        (("show", "999"), ExitCode.NOT_FOUND, "runqy: "),
        (("show", "seven"), ExitCode.USAGE, "Invalid value for 'ID'"),
        (("revoke", "999", "--force"), ExitCode.NOT_FOUND, "runqy: "),
        (("revoke", "999"), ExitCode.NOT_FOUND, "runqy: "),
    ],
)
def test_errors_of_keys_have_a_message_and_a_status(
    admin: Run, arguments: tuple[str, ...], status: ExitCode, message: str
) -> None:
    result = admin("apikey", *arguments)

    assert (result.exit_code, message in result.stderr) == (status, True), result.stderr


def test_key_limited_to_queues_creates_no_key(admin: Run) -> None:
    limited = admin("apikey", "create", "team", "--role", "admin", "-q", "mail").stdout.strip()

    result = admin("apikey", "create", "more", "--role", "admin", "-k", limited)

    assert result.exit_code == ExitCode.DENIED
    assert ApiKey.objects.count() == 1


def test_audit_shows_who_changed_what(admin: Run) -> None:
    outputs([admin("vault", "create", "tokens"), admin("vault", "set", "tokens", "A", input="x")])
    outputs([admin("apikey", "create", "shop", "-q", "mail")])

    newest = admin("audit", "list", "-l", "1")
    of_vault = admin("audit", "list", "--object", "tokens", "--object-kind", "vault", "-o", "name")
    nothing = admin("audit", "list", "--actor", "nobody")
    refused = admin("audit", "list", "--from", "yesterday")

    number, _, actor, action, about, changes = newest.stdout.rstrip("\n").split("\t")
    assert (number, actor, action) == ("3", "key admin key of the environment", "api_key.created")
    assert about.endswith(" shop")
    assert 'queues: ["mail"]' in changes
    assert newest.stderr.startswith("runqy: Showing 1. Use --limit, or --cursor ")
    assert (of_vault.stdout, nothing.stdout) == ("2\n1\n", "")
    assert (refused.exit_code, refused.stderr[:12]) == (ExitCode.FAILED, "runqy: from:")


def test_warnings_do_not_fail_the_check(admin: Run, redis: redis_py.Redis) -> None:
    result = admin("status", "--check")

    assert result.exit_code == 0, result.output
    assert "status\twarning\n" in result.stdout
    assert "workers\t0 ready, 0 not ready, 0 disconnected\n" in result.stdout
    # No maintenance runs beside the tests.
    assert "runqy manage run_maintenance" in result.stdout


def test_status_counts_the_queues_of_a_process_by_their_state(admin: Run, single_broker: Broker) -> None:
    states = {"mail": WorkerState.READY, "image": WorkerState.START_FAILED, "video": WorkerState.START_FAILED}
    with ExitStack() as beating:
        for queue, state in states.items():
            record = replace(RECORD, worker_id=queue, queue=queue, redis_queues={queue: 5}, state=state)
            beating.enter_context(heartbeats(single_broker, record))
        shown, report = admin("status"), admin("status", "-o", "json")

    assert "workers\t1 ready, 0 not ready, 0 disconnected\nworker_queues\t1 ready, 2 start failed\n" in shown.stdout
    assert json.loads(report.stdout)["worker_queues"] == {"ready": 1, "start_failed": 2}


def test_status_fails_if_an_alert_is_critical(admin: Run, redis: redis_py.Redis) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    outputs([admin("task", "enqueue", "-q", "mail"), admin("queue", "pause", "mail")])
    finding = Finding(kind=AlertKind.NO_READY_WORKER, subject="mail", queue="mail", message="Queue mail has no worker.")
    other = Finding(kind=AlertKind.WORKER_MISSING, subject="w", message="Worker w is gone.")
    store_findings([other, finding], now=timezone.now())

    shown, checked = admin("status"), admin("status", "--check", "-o", "json")
    listed = admin("alerts", "--level", "critical", "--since", "1h")
    later = admin("alerts", "--since", (timezone.now() + timedelta(hours=1)).isoformat())

    assert (shown.exit_code, checked.exit_code) == (0, ExitCode.FAILED)
    report = json.loads(checked.stdout)
    assert (report["status"], report["tasks"]["pending"], report["version"]) == ("critical", 1, "1.0.0")
    messages = [problem["message"] for problem in report["problems"]]
    assert messages[0] == "Queue mail has no worker."
    assert {*messages} > {"Worker w is gone.", "Queue mail is paused. Pending tasks: 1."}
    assert [queue["queue"] for queue in report["behind"]] == ["mail"]
    assert "critical\tQueue mail has no worker.\t" in shown.stdout
    assert listed.stdout.split("\t")[:3] == ["critical", "no_ready_worker", "mail"]
    assert (later.exit_code, later.stdout) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("alerts", "--level", "bad"), ExitCode.USAGE),
        (("alerts", "--state", "bad"), ExitCode.USAGE),
        (("alerts", "--since", "yesterday"), ExitCode.FAILED),
        (("alerts", "-k", CLIENT_KEY), ExitCode.DENIED),
        (("status", "-k", CLIENT_KEY), ExitCode.DENIED),
        (("audit", "list", "-k", CLIENT_KEY), ExitCode.DENIED),
    ],
)
def test_errors_of_reports_have_a_status(admin: Run, arguments: tuple[str, ...], status: ExitCode) -> None:
    assert admin(*arguments).exit_code == status
