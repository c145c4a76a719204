"""The whole way of a secret, as staff see it: into a vault, to a worker, changed, and everything taken away again."""

import json
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis as redis_py
from playwright.sync_api import Locator, Page, expect

from runqy.broker import keys
from tests.browser import queue_form
from tests.browser.pages import open_from_list
from tests.browser.secret_digest import FILES, SecretDigest
from tests.support.maintenance import start_maintenance
from tests.support.processes import is_alive
from tests.support.secret_leaks import SUITE
from tests.support.waiting import eventually
from tests.support.web import WebProcess
from tests.workers.processes import WorkerProcess
from tests.workers.repositories import Repository

QUEUE, VAULT, KEY_NAME = "parcels", "courier", "gpu machines"
FIRST, SECOND = SUITE.secret("fi-", "-st"), SUITE.secret("se-", "-nd")
TIMEOUT_S = 90
"""How long a busy machine may take to deploy, to register and to start processes."""

StartWorker = Callable[[str], WorkerProcess]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Return a repository with code that returns the digest of its secret."""
    made = Repository(tmp_path / "repository")
    made.commit(FILES)
    return made


@pytest.fixture
def _maintenance(site: WebProcess, tmp_path: Path) -> Iterator[None]:
    """Run maintenance, which records deliveries."""
    with (tmp_path / "maintenance.log").open("wb") as log:
        process = start_maintenance(log)
    yield
    process.kill()
    process.wait()


@pytest.fixture
def start_worker(site: WebProcess, tmp_path: Path) -> Iterator[StartWorker]:
    """Return a function that starts a worker with an API key."""
    workers: list[WorkerProcess] = []

    def start(key: str) -> WorkerProcess:
        workers.append(WorkerProcess(site, tmp_path, RUNQY_API_KEY=key, RUNQY_QUEUES=QUEUE))
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()


@pytest.mark.smoke
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("_maintenance")
def test_a_secret_reaches_a_worker_is_changed_and_is_revoked(
    page: Page, site: WebProcess, repository: Repository, start_worker: StartWorker, redis: redis_py.Redis
) -> None:
    create_vault(page)
    create_queue(page, repository)
    key = create_key(page)
    worker = start_worker(key)
    see_it_ready(page, worker)
    see_delivered(page, version=1)
    before = try_a_task(page)
    assert before.has(FIRST)

    change_secret(page)
    eventually(lambda: not is_alive(before.pid), within_s=TIMEOUT_S, what=worker.log.read_text)
    after = try_a_task(page)
    assert after.has(SECOND)
    assert after.pid != before.pid
    see_delivered(page, version=2)
    see_it_ready(page, worker)

    assert register(site, key) == 200
    revoke_key(page)
    eventually(lambda: register(site, key) == 401)
    delete_queue(page)
    assert worker.process.wait(TIMEOUT_S) == 1, "its key was accepted after the revocation"
    eventually(lambda: not left(redis), within_s=TIMEOUT_S, what=lambda: left(redis))
    assert repository.url.encode() not in redis.hget(keys.CONFIG_DOCUMENTS, f"queue:{QUEUE}"), "its definition is there"


def create_vault(page: Page) -> None:
    """Save a secret in a new vault, and see its mask."""
    page.goto("/admin/vaults/vault/")
    page.get_by_role("link", name="Add vault").first.click()
    page.get_by_label("Name").fill(VAULT)
    page.get_by_role("link", name="Add another Entry").click()
    page.locator("#id_entries-0-key").fill("TOKEN")
    save_secret(page, FIRST, version=1, mask="fi****st")


def change_secret(page: Page) -> None:
    """Give the secret another value."""
    open_from_list(page, "/admin/vaults/vault/", VAULT)
    save_secret(page, SECOND, version=2, mask="se****nd")


def save_secret(page: Page, value: str, *, version: int, mask: str) -> None:
    """Enter a value and see that the page that comes back masks it."""
    page.locator("#id_entries-0-value").fill(value)
    page.get_by_role("button", name="Save and continue").click()
    expect(page.get_by_text(mask)).to_be_visible()
    expect(page.get_by_text(f"version {version}")).to_be_visible()
    expect(page.locator("#id_entries-0-value")).to_have_value("")
    assert SUITE.core not in page.content()


def create_queue(page: Page, repository: Repository) -> None:
    """Define a queue with two sub-queues and the vault."""
    page.goto(queue_form.ADD)
    queue_form.fill_basics(page, QUEUE, repository.url)
    queue_form.add_sub_queue(page, "express", "10")
    queue_form.add_sub_queue(page, "slow", "3")
    queue_form.add_row(page, "vaults", vault=VAULT)
    queue_form.save(page)
    expect(page).to_have_url(queue_form.LIST)
    expect(page.locator("#result_list").get_by_role("link", name=QUEUE, exact=True)).to_be_visible()


def create_key(page: Page) -> str:
    """Create a worker's key for the queue, and copy it where it is shown once."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/admin/accounts/apikey/add/")
    page.get_by_label("Name").fill(KEY_NAME)
    page.get_by_role("radio", name="worker: for runqy-worker").check()
    page.locator(".select2-selection").first.click()
    page.get_by_role("option", name=QUEUE).click()
    page.get_by_role("button", name="Save").click()
    page.locator("[data-copy=api-key]").click()
    expect(page.locator("[data-copy=api-key]")).to_have_text("Copied")
    return str(page.evaluate("navigator.clipboard.readText()"))


def see_it_ready(page: Page, worker: WorkerProcess) -> None:
    """See on the pages of workers that the process which was started is the one that is ready for both sub-queues."""
    page.goto("/admin/workers/worker/")
    row = page.get_by_role("row").filter(has_text=f"{QUEUE}_express")
    reload_until(page, row.get_by_text("ready", exact=True), worker.log.read_text)
    expect(row).to_contain_text(f"{QUEUE}_slow")
    row.get_by_role("link").first.click()
    expect(page.get_by_text(re.compile(rf", process {worker.process.pid}$"))).to_be_visible()
    assert SUITE.core not in page.content()


def see_delivered(page: Page, *, version: int) -> None:
    """See which version the worker was given last, and with which key."""
    open_from_list(page, "/admin/vaults/vault/", VAULT)
    page.get_by_role("link", name="Deliveries").click()
    page.wait_for_url("**/deliveries/")  # or the page before would be reloaded
    newest = page.locator("#deliveries tbody tr").first
    reload_until(page, newest.filter(has_text=f"TOKEN {version}"))
    expect(newest).to_contain_text(KEY_NAME)
    expect(newest).to_contain_text("current")
    assert SUITE.core not in page.content()


def try_a_task(page: Page) -> SecretDigest:
    """Put a task on a sub-queue and read its result on its page."""
    page.goto(f"/admin/tasks/task/add/?queue={QUEUE}_express")
    page.get_by_label("Payload").fill("{}")
    page.get_by_role("button", name="Enqueue").click()
    page.wait_for_url("**/change/**")
    reload_until(page, page.locator("#result"))
    return SecretDigest(**json.loads(page.locator("#result-text").text_content() or ""))


def revoke_key(page: Page) -> None:
    """Revoke the worker's key."""
    open_from_list(page, "/admin/accounts/apikey/", KEY_NAME)
    page.get_by_role("link", name="Revoke").click()
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("All servers refuse it within two seconds")).to_be_visible()


def delete_queue(page: Page) -> None:
    """Delete the queue by entering its name."""
    open_from_list(page, queue_form.LIST, QUEUE)
    page.get_by_role("link", name="Delete queue").click()
    page.get_by_label("Name of the queue").fill(QUEUE)
    page.get_by_role("button", name="Delete the queue and its tasks").click()
    expect(page.get_by_text(f"The queue {QUEUE} was deleted with 2 tasks.")).to_be_visible()


def reload_until(page: Page, sign: Locator, what: Callable[[], object] | None = None) -> None:
    """Reload a page until it shows what other processes bring about."""

    def look() -> bool:
        return sign.is_visible() or (page.reload() is not None and sign.is_visible())

    eventually(look, within_s=TIMEOUT_S, what=what or page.content)


def register(site: WebProcess, key: str) -> int:
    """Return the status of the response to a worker that registers with a key."""
    body = {"queue": QUEUE, "accepts": ["redis_acl"], "instance_id": str(uuid.UUID(int=1))}
    return site.send("/worker/register", json.dumps(body).encode(), key=key)[0]


def left(redis: redis_py.Redis) -> list[str]:
    """Return the keys of tasks and queues: all but those of configuration and of limits on requests.

    The worker, which could not deregister once its key was revoked, is listed as lost for a day, and what was requested
    of it stays as long.
    """
    found = [key.decode() for key in redis.scan_iter(count=1000)]
    kept = ("config:", "revisions", "rate:", "worker:", "workers", "worker_requests:")
    return [key for key in found if not key.startswith(tuple(f"runqy:{name}" for name in kept))]
