"""Pushes that git hosts report: what they send, and what is released of it."""

import hashlib
import hmac
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import OperationalError
from django.utils import timezone

from queues import pushes
from queues.definitions import Deployment, ReleaseMode
from queues.models import Queue, QueueSource, ReceivedPush, Release, ReleaseState
from queues.operations import change_queue, save_queue
from queues.releases import redeploy_queue, roll_back
from queues.webhook_secrets import sign
from runqy.broker.broker import Broker
from runqy.core.formats.durations import Rate
from tests.api.client import ApiClient, Response, problem
from tests.queues.samples import spec
from tests.support.audit import audit_records
from tests.workers.repositories import Repository
from vaults.models import SealedSecret

OLD, NEW = "a" * 40, "b" * 40
HOOK, SECRET_PATH = "/hooks/git/mail", "/api/cli/queues/mail/git-hook-secret"
RELEASED, KNOWN = "release requested", "This commit is live, or is rolling out."
# The host is on the internet, which these tests do not reach: as where workers alone have the keys.
DEPLOYMENT = Deployment(git_url="git@git.invalid:shop/mail.git", startup_cmd="python main.py", release=ReleaseMode.PUSH)
GITHUB: dict[str, Any] = {
    "ref": "refs/heads/main",
    "before": OLD,
    "after": NEW,
    "created": False,
    "deleted": False,
    "forced": False,
    "pusher": {"name": "ada", "email": "ada@example.com"},
    "repository": {
        "id": 1,
        "full_name": "shop/mail",
        "html_url": "https://git.invalid/shop/mail",
        "clone_url": "https://git.invalid/shop/mail.git",
        "ssh_url": "git@git.invalid:shop/mail.git",
        "default_branch": "main",
        "pushed_at": 1700000000,
    },
    "head_commit": {"id": NEW, "message": "Mend it", "author": {"name": "Ada"}},
    "commits": [],
}
GITEA = GITHUB | {"pusher": {"id": 1, "login": "ada", "full_name": "Ada", "username": "ada"}, "total_commits": 1}
GITLAB: dict[str, Any] = {
    "object_kind": "push",
    "event_name": "push",
    "ref": "refs/heads/main",
    "before": OLD,
    "after": NEW,
    "checkout_sha": NEW,
    "user_name": "Ada",
    "user_username": "ada",
    "project": {
        "name": "mail",
        "web_url": "https://git.invalid/shop/mail",
        "git_ssh_url": "ssh://git@git.invalid:2222/shop/mail.git",
        "git_http_url": "https://git.invalid/Shop/mail.git",
    },
    "repository": {"name": "mail", "url": "git@git.invalid:shop/mail.git", "homepage": "https://git.invalid/shop/mail"},
    "commits": [],
}


@pytest.fixture
def secret(configuration: None, single_broker: Broker) -> str:
    """Return the secret of the queue `mail`, whose live release is the commit OLD."""
    row = save_queue(spec=spec("mail", deployment=DEPLOYMENT), source=QueueSource.API)
    now = timezone.now()
    code = {name: getattr(row, name) for name in ("git_url", "branch", "startup_cmd", "requirements_file")}
    live = Release(queue=row, number=1, commit=OLD, source="first", state=ReleaseState.LIVE, **code)
    live.created_at = live.live_at = now
    live.save()
    found: str = json.loads(ApiClient().post(SECRET_PATH).content)["secret"]
    return found


def digest(secret: str, body: bytes) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def send(headers: dict[str, str], body: bytes, path: str = HOOK, content_type: str = "application/json") -> Response:
    return ApiClient(None).post(path, body, content_type, **headers)


def github(secret: str, event: dict[str, Any] = GITHUB, name: str = "push") -> Response:
    body = json.dumps(event).encode()
    return send({"X-GitHub-Event": name, "X-Hub-Signature-256": f"sha256={digest(secret, body)}"}, body)


def github_form(secret: str) -> Response:
    body = urlencode({"payload": json.dumps(GITHUB)}).encode()
    headers = {"X-GitHub-Event": "push", "X-Hub-Signature-256": f"sha256={digest(secret, body)}"}
    return send(headers, body, content_type="application/x-www-form-urlencoded")


def gitea(secret: str) -> Response:
    body = json.dumps(GITEA).encode()
    return send({"X-Gitea-Event": "push", "X-Gitea-Signature": digest(secret, body)}, body)


def gitlab(secret: str) -> Response:
    return send({"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": secret}, json.dumps(GITLAB).encode())


def gitlab_signed(secret: str, age_s: int = 0) -> Response:
    body, now_s = json.dumps(GITLAB).encode(), int(time.time()) - age_s
    signature = sign(body, message_id="1", timestamp_s=now_s, secrets=[secret])
    headers = {"webhook-id": "1", "webhook-timestamp": str(now_s), "webhook-signature": signature}
    return send({"X-Gitlab-Event": "Push Hook", **headers}, body)


HOSTS = [github, github_form, gitea, gitlab, gitlab_signed]


def message(response: Response) -> str:
    assert response.status_code == 200, response.content
    found: str = json.loads(response.content)["message"]
    return found


def releases() -> list[tuple[int, str, str, str]]:
    found = Release.objects.order_by("number").values_list("number", "state", "commit", "source")
    return [tuple(map(str, each)) for each in found][1:]  # type: ignore[misc]


@pytest.mark.parametrize("send_push", HOSTS)
def test_a_push_of_each_host_makes_a_release_of_the_newest_commit_and_sent_again_does_nothing(
    secret: str, send_push: Any
) -> None:
    first, again = send_push(secret), send_push(secret)

    assert json.loads(first.content) == {"message": RELEASED, "queue": "mail", "release": 2}
    assert (message(again), json.loads(again.content)["release"]) == (pushes.RECEIVED, None)
    # Only workers reach this repository: the commit of the event is not what is deployed.
    assert releases() == [("2", "rolling_out", "", "push")]
    record = audit_records().filter(action="queue.redeployed").get()
    assert (record.actor_kind, record.actor_name) == ("hook", "ada")
    assert json.loads(record.changes)["source"]["new"] == "push"
    assert Release.objects.get(number=2).actor == "ada"


@pytest.mark.parametrize("send_push", HOSTS)
def test_a_forged_push_is_refused_as_one_to_an_unknown_queue(secret: str, send_push: Any, settings: Any) -> None:
    settings.RUNQY_AUTH_FAILURE_LIMIT = None
    change_queue(spec=spec("plain"))
    forged = send_push("whsec_" + "A" * 44)

    others = [
        send({"X-GitHub-Event": "push", "X-Gitlab-Token": secret}, b"{}", f"/hooks/git/{q}") for q in ("no", "plain")
    ]

    found = [problem(response) for response in (forged, *others)]
    assert {(each["status"], each["code"], each["detail"]) for each in found} == {
        (401, "push_unsigned", "The queue takes no push with this signature or token.")
    }
    assert releases() == []


def test_a_changed_body_an_old_signature_and_no_signature_are_refused(
    secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps(GITHUB).encode()
    headers = {"X-GitHub-Event": "push", "X-Hub-Signature-256": f"sha256={digest(secret, body)}"}

    found = [send(headers, body + b" "), gitlab_signed(secret, age_s=400), send({"X-GitHub-Event": "push"}, b"{}")]
    found.append(send({"X-Gitlab-Token": "ü", "X-Gitlab-Event": "Push Hook"}, body))
    found.append(send(headers, body, "/hooks/git/no"))

    assert [response.status_code for response in found] == [401] * 5
    assert releases() == []
    logged = [record.msg for record in caplog.records if record.name == "queues.api.hook_viewsets"]
    assert [(each["event"], each["queue"], each["reason"]) for each in logged] == [
        ("push_refused", "mail", "Its signature or token was not made with the queue's secret."),
        ("push_refused", "mail", "Its webhook-timestamp is more than 300 s from the time of this server."),
        ("push_refused", "mail", "It has no signature and no token."),
        ("push_refused", "mail", "Its signature or token was not made with the queue's secret."),
        ("push_refused", "no", "No queue of this name has a secret for pushes."),
    ]
    assert secret not in caplog.text


def test_only_post_is_allowed(secret: str) -> None:
    found = problem(ApiClient(None).get(HOOK))

    assert (found["status"], found["code"]) == (405, "method_not_allowed")


def test_forgeries_are_limited_by_address_and_the_host_is_not(secret: str, settings: Any) -> None:
    settings.RUNQY_AUTH_FAILURE_LIMIT = Rate(1, 3600)

    assert [github("wrong").status_code for _ in range(3)] == [401, 429, 429]
    assert message(github(secret)) == RELEASED


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ref": "refs/heads/next"}, "The push is to another branch than the queue's: main."),
        ({"after": "0" * 40, "deleted": True}, "The branch was deleted."),
        ({"after": OLD}, KNOWN),
        (
            {"repository": {"clone_url": "https://git.invalid/evil/mail.git"}},
            "The push is to another repository than the queue's git_url.",
        ),
        ({"repository": {}}, "The push is to another repository than the queue's git_url."),
    ],
)
def test_a_push_that_does_not_concern_the_queue_releases_nothing(
    secret: str, changes: dict[str, Any], expected: str
) -> None:
    assert message(github(secret, GITHUB | changes)) == expected
    assert releases() == []


def test_other_events_and_what_is_no_push_release_nothing(secret: str) -> None:
    assert message(github(secret, {"zen": "Keep it logically awesome.", "hook_id": 1}, "ping")) != RELEASED
    wrong = [github(secret, {"ref": "refs/heads/main"}), github(secret, GITHUB | {"repository": {"ssh_url": "x://["}})]
    assert [problem(response)["code"] for response in wrong] == ["invalid_request"] * 2
    assert releases() == []


def test_bodies_are_limited(secret: str, settings: Any) -> None:
    settings.RUNQY_MAX_BODY_SIZE = 100

    assert problem(github(secret))["code"] == "too_large"


def test_a_queue_that_is_released_by_hand_ignores_pushes_and_its_secret_is_kept(secret: str) -> None:
    manual = replace(DEPLOYMENT, release=ReleaseMode.MANUAL)
    change_queue(spec=spec("mail", deployment=manual))

    assert message(github(secret)) == "The queue is released by hand (deployment.release is manual)."
    assert problem(ApiClient().post(SECRET_PATH))["code"] == "invalid_request"
    change_queue(spec=spec("mail", deployment=DEPLOYMENT))
    assert message(github(secret)) == RELEASED


def test_the_secret_is_shown_once_rotated_and_in_no_document_or_record(secret: str) -> None:
    assert problem(ApiClient().post(SECRET_PATH))["code"] == "webhook_secret_shown"

    new = json.loads(ApiClient().post(f"{SECRET_PATH}/rotate").content)["secret"]

    # For 24 hours a host that still has the old one is believed.
    assert (message(github(secret)), message(gitlab(new))) == (RELEASED, RELEASED)
    written = str(list(audit_records().values())) + ApiClient().get("/api/cli/configs/mail").content.decode()
    assert not any(each in written for each in (secret, new))
    assert SealedSecret.objects.get().purpose == "git hook secret"
    ApiClient().delete("/api/cli/configs/mail?force=true")
    assert not SealedSecret.objects.exists()


def test_a_push_during_a_rollout_supersedes_it_and_does_not_repeat_it(secret: str) -> None:
    redeploy_queue(name="mail", commit=NEW)

    assert message(github(secret)) == KNOWN
    assert message(github(secret, GITHUB | {"after": "c" * 40})) == RELEASED
    assert [(number, state) for number, state, _, _ in releases()] == [("2", "superseded"), ("3", "rolling_out")]


def test_a_push_that_two_processes_receive_at_once_is_released_once(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def receive_it_meanwhile(_: Queue) -> str:
        monkeypatch.setattr(pushes, "find_tip", lambda _: "")
        assert message(github(secret)) == RELEASED
        return ""

    monkeypatch.setattr(pushes, "find_tip", receive_it_meanwhile)

    assert message(github(secret)) == pushes.RECEIVED
    assert releases() == [("2", "rolling_out", "", "push")]


def test_a_push_that_is_sent_again_does_not_undo_a_rollback(secret: str) -> None:
    github(secret)
    Release.objects.filter(number=1).update(state=ReleaseState.SUPERSEDED)
    Release.objects.filter(number=2).update(state=ReleaseState.LIVE, commit=NEW, live_at=timezone.now())
    roll_back(name="mail")

    assert message(github(secret)) == pushes.RECEIVED
    assert [source for *_, source in releases()] == ["push", "rollback"]


def test_the_server_releases_the_tip_of_the_repository_and_not_what_the_event_says(
    secret: str, settings: Any, tmp_path: Path
) -> None:
    settings.RUNQY_GIT_CHECK_PRIVATE = True
    repository = Repository(tmp_path / "mail.git")
    tip = repository.commit({"main.py": ""})
    url = f"file://{repository.folder}"
    change_queue(spec=spec("mail", deployment=replace(DEPLOYMENT, git_url=url)))
    event = GITHUB | {"repository": {"clone_url": url}}

    assert message(github(secret, event)) == RELEASED
    assert message(github(secret, event | {"after": "c" * 40})) == KNOWN  # late: the branch is further on

    assert releases()[1:] == [("3", "rolling_out", tip, "push")]


def test_the_last_pushes_are_remembered(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushes, "PUSHES_KEPT", 2)

    for number in range(4):
        github(secret, GITHUB | {"after": f"{number}" * 39 + "f"})

    assert ReceivedPush.objects.count() == 2


def test_pushes_need_the_database_and_the_master_key(
    secret: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OperationalError("away")

    with monkeypatch.context() as patch:
        patch.setattr(Queue.objects, "select_related", fail)
        assert problem(github(secret))["code"] == "database_unavailable"
    settings.RUNQY_VAULT_MASTER_KEY = ""
    assert {problem(send({}, b"{}", f"/hooks/git/{queue}"))["status"] for queue in ("mail", "no")} == {503}
