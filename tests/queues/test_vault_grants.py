"""Grants of vaults and git tokens to queues, and the permissions to extend them."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from queues.definitions import CODE_COLUMNS, Deployment
from queues.models import Queue, QueueSource, Release, ReleaseState
from queues.operations import disable_queue, save_queue
from queues.vault_grants import Grant, find_added_grants
from runqy.accounts.operations import create_api_key
from runqy.core.api_keys import Role
from runqy.errors import QueueInvalid
from tests.api.client import ApiClient, problem
from tests.queues.admin_pages import ADD, FORM, LIST, errors_of, page_of, rows, sent_by
from tests.queues.samples import spec
from tests.support.staff import client_of
from vaults.entry_rules import EntryUsage
from vaults.operations import create_vault, set_entry

pytestmark = pytest.mark.usefixtures("configuration")

DEPLOYMENT = Deployment(
    git_url="https://github.com/org/repo.git",
    startup_cmd="python main.py",
    vaults=("models",),
    git_token="vault://github/PAT",
)


@pytest.fixture(autouse=True)
def _vaults(configuration: None) -> None:
    for vault in ("models", "github", "payroll"):
        create_vault(name=vault)
    hosts = ["github.com", "gitlab.com", "h"]
    set_entry(vault="github", key="PAT", value="ghp_planted", usage=EntryUsage.BOTH, git_hosts=hosts)
    set_entry(vault="github", key="OTHER", value="ghp_other", usage=EntryUsage.BOTH, git_hosts=hosts)


@pytest.fixture
def queue(_vaults: None) -> Queue:
    return save_queue(spec=spec("mail", deployment=DEPLOYMENT), source=QueueSource.API)


@pytest.fixture
def without_vaults(_vaults: None) -> Client:
    """Return the client of a user with all permissions on queues, and none on vaults."""
    user = User.objects.create_user("queues-only", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="queues"))
    return client_of(user)


CHANGES: list[tuple[dict[str, Any], list[Grant]]] = [
    ({"branch": "next", "startup_cmd": "python -m other"}, []),
    ({"git_url": "https://GitHub.com:443/org/other.git"}, []),
    ({"vaults": (), "git_token": ""}, []),
    ({"vaults": ("models", "payroll")}, [Grant("payroll")]),
    ({"vaults": ("models", "github")}, [Grant("github")]),
    ({"git_token": "vault://github/OTHER"}, [Grant("github", "OTHER")]),
    ({"git_token": "vault://models/KEY"}, [Grant("models", "KEY")]),
    ({"git_url": "https://gitlab.com/org/repo.git"}, [Grant("github", "PAT"), Grant("models")]),
    ({"git_url": "https://github.com:8443/org/repo.git"}, [Grant("github", "PAT"), Grant("models")]),
    ({"git_url": "git@evil.com:org/repo.git", "git_token": ""}, [Grant("models")]),
    ({"git_url": "file:///srv/r.git", "vaults": (), "git_token": ""}, []),
]


@pytest.mark.parametrize(("changes", "added"), CHANGES)
def test_a_grant_is_an_entry_or_a_whole_vault_for_one_host(changes: dict[str, Any], added: list[Grant]) -> None:
    assert find_added_grants(DEPLOYMENT, replace(DEPLOYMENT, **changes)) == added
    assert find_added_grants(None, DEPLOYMENT) == [Grant("github", "PAT"), Grant("models")]


@pytest.mark.parametrize("git_url", ["ssh://git@GitHub.com:22/org/repo.git", "ssh://github.com./other/repo.git"])
def test_another_spelling_of_a_host_adds_no_grant(git_url: str) -> None:
    before = replace(DEPLOYMENT, git_url="ssh://deploy@github.com/org/repo.git")

    assert find_added_grants(before, replace(before, git_url=git_url)) == []


def sent(**changes: Any) -> dict[str, Any]:
    """Return a body that changes the queue."""
    deployment = {
        "git_url": DEPLOYMENT.git_url,
        "startup_cmd": "x",
        "vaults": ["models"],
        "git_token": "vault://github/PAT",
    }
    return {"name": "mail", "priority": 5, "deployment": deployment | changes}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"vaults": ["models", "github"]}, "the vault github"),
        ({"git_token": "vault://github/OTHER"}, "vault://github/OTHER"),
        ({"git_url": "https://gitlab.com/org/repo.git"}, "code from another host vault://github/PAT, the vault models"),
    ],
)
def test_a_limited_key_cannot_extend_the_grant_of_an_entry(queue: Queue, changes: dict[str, Any], named: str) -> None:
    limited = ApiClient(create_api_key(name="ops", role="admin", queues=["mail"]).plain)

    response = limited.post("/api/cli/configs?force=true", sent(**changes))

    assert (response.status_code, problem(response)["code"]) == (403, "forbidden")
    assert named in problem(response)["detail"]
    assert limited.post("/api/cli/configs?force=true", sent(branch="next")).status_code == 200
    assert ApiClient().post("/api/cli/configs?force=true", sent(**changes)).status_code == 200


def test_a_limited_key_cannot_create_a_queue_with_vaults() -> None:
    limited = ApiClient(create_api_key(name="ops", role="admin", queues=["mail"]).plain)

    assert limited.post("/api/cli/configs", sent()).status_code == 403
    assert limited.post("/api/cli/configs", sent(vaults=[], git_token="")).status_code == 201


def test_staff_without_the_vault_permission_cannot_extend_grants(without_vaults: Client, queue: Queue) -> None:
    form = sent_by(without_vaults, queue)

    whole = without_vaults.post(page_of(queue), form | rows("vaults", {"vault": "models"}, {"vault": "github"}))
    moved = without_vaults.post(page_of(queue), form | {"git_url": "https://gitlab.com/org/repo.git"})
    other = without_vaults.post(page_of(queue), form | {"git_token": "vault://github/OTHER"})

    for response in (whole, moved, other):
        assert "You may not change vaults (vaults.change_vault)" in str(errors_of(response))
    queue.refresh_from_db()
    assert queue.as_spec().deployment == DEPLOYMENT
    assert without_vaults.post(page_of(queue), form | {"branch": "next"}).status_code == 302


def test_staff_without_the_vault_permission_cannot_clone_a_queue_with_vaults(without_vaults: Client) -> None:
    refused = without_vaults.post(ADD, FORM | {"git_token": "vault://github/PAT"})

    assert "the change would give this queue vault://github/PAT" in str(errors_of(refused))
    assert without_vaults.post(ADD, FORM).status_code == 302


def test_staff_without_the_vault_permission_check_only_with_the_token_of_the_queue(
    without_vaults: Client, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sentence(**changes: str) -> str:
        body = {"git_url": DEPLOYMENT.git_url, "git_token": DEPLOYMENT.git_token, "queue": "mail"} | changes
        return without_vaults.post(f"{LIST}check/", body).json()["message"]

    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **options: [(2, 1, 6, "", ("10.0.0.1", 443))])

    assert "private network" in sentence()
    for changes in ({"git_url": "https://gitlab.com/r.git"}, {"git_token": "vault://github/OTHER"}, {"queue": "other"}):
        assert sentence(**changes).startswith("You may not send vault://github/")


@pytest.mark.parametrize("git_url", ["https://evil.com/r.git", "https://GITHUB.com.evil.com/r.git"])
def test_a_queue_is_not_saved_with_a_token_for_another_host(git_url: str) -> None:
    with pytest.raises(QueueInvalid, match=r"deployment.git_token: The entry vault://github/PAT is only for .*: add "):
        save_queue(spec=spec("mail", deployment=replace(DEPLOYMENT, git_url=git_url)), source=QueueSource.API)

    assert not Queue.objects.exists()


def test_a_queue_can_be_saved_before_its_vault_exists() -> None:
    deployment = replace(DEPLOYMENT, git_token="vault://later/PAT")

    assert save_queue(spec=spec("mail", deployment=deployment), source=QueueSource.API)


def test_a_queue_whose_token_was_withdrawn_can_still_be_disabled(queue: Queue) -> None:
    set_entry(vault="github", key="PAT", value="ghp_planted", git_hosts=["h"])

    assert disable_queue(name="mail")


def test_the_form_offers_declared_entries_with_their_hosts_and_names_what_is_wrong(admin_client: Client) -> None:
    set_entry(vault="models", key="SECRET", value="x")

    choices = str(admin_client.get(ADD).context["adminform"].form.fields["git_token"].choices)
    refused = admin_client.post(ADD, FORM | {"git_token": "vault://github/PAT", "git_url": "https://evil.com/r.git"})

    assert "PAT (github.com, gitlab.com, h)" in choices
    assert "vault://models/SECRET" not in choices
    assert "may not be sent to evil.com: add evil.com to its git hosts" in errors_of(refused)["git_token"][0]


def test_a_rollback_gives_the_vaults_of_a_queue_to_no_code_of_another_host(
    queue: Queue, without_vaults: Client
) -> None:
    created_at = timezone.now()
    code = {column: getattr(DEPLOYMENT, column) for column in CODE_COLUMNS}
    for number, host in enumerate(("attacker.example", "github.com"), start=1):
        state = ReleaseState.LIVE if number == 2 else ReleaseState.SUPERSEDED
        columns = code | {"git_url": f"https://{host}/org/repo.git", "commit": f"{number:040}", "source": "manual"}
        Release.objects.create(
            queue=queue, number=number, state=state, created_at=created_at, live_at=created_at, **columns
        )
        created_at += timedelta(seconds=1)
    limited = ApiClient(create_api_key(name="mail", role=Role.ADMIN, queues=["mail"]).plain)

    refused = limited.post("/api/cli/queues/mail/rollback")
    page = without_vaults.post(page_of(queue, "switch"), {"verb": "roll back"}, follow=True)

    assert (refused.status_code, problem(refused)["detail"]) == (
        403,
        "This key is limited to queues, and the change would give code from another host the vault models.",
    )
    assert "You may not change vaults (vaults.change_vault), and the change would give" in page.content.decode()
    assert Release.objects.count() == 2
    Release.objects.filter(number=1).update(git_url="https://github.com/org/other.git")
    assert limited.post("/api/cli/queues/mail/rollback").status_code == 200
