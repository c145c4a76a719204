"""Applying queue files over HTTP."""

from typing import Any

import pytest

from queues.models import Queue, QueueSource
from queues.operations import disable_queue, save_queue
from queues.queries import get_fresh_catalog
from runqy.broker.broker import Broker
from tests.api.client import ApiClient, Response, problem
from tests.configuration.support import away
from tests.queues.api.configs import content, refusal
from tests.queues.samples import spec
from tests.support.audit import audit_records
from tests.support.tasks import put

PATH = "/api/cli/configs/apply"
QUEUE = "queues:\n  {}: {{priority: {}, deployment: {{git_url: 'https://h/r', startup_cmd: x}}}}\n"


def apply(client: ApiClient, query: str = "", **files: str) -> Response:
    """Apply files, given by their names without suffix."""
    body = {"files": [{"name": f"{name}.yaml", "content": text} for name, text in files.items()]}
    return client.post(f"{PATH}{query}", body)


def revision_of(queue: str) -> int:
    return int(get_fresh_catalog(max_age_s=0).queue_revision(queue))


def outcomes(response: Response) -> list[tuple[str, str]]:
    return [(queue["queue"], queue["outcome"]) for queue in content(response)["queues"]]


def test_files_are_applied_as_they_are(client: ApiClient) -> None:
    first = apply(client, a=QUEUE.format("mail", 1), b=QUEUE.format("sms", 1))
    second = apply(client, a=QUEUE.format("mail", 2), b=QUEUE.format("sms", 1))
    saved = Queue.objects.get(name="sms").updated_at
    Queue.objects.filter(name="sms").update(source="api")
    third = apply(client, a=QUEUE.format("mail", 2), b=QUEUE.format("sms", 1))

    kept = ("inference", "kept")
    assert outcomes(first) == [("mail", "added"), ("sms", "added"), kept]
    assert outcomes(second) == [("mail", "updated"), ("sms", "unchanged"), kept]
    assert outcomes(third) == [("mail", "unchanged"), ("sms", "unchanged"), kept]
    changed = content(second)["queues"][0]
    assert "priority: 1\n" in changed["before"]
    assert changed["after"] == changed["before"].replace("priority: 1", "priority: 2")
    assert [*Queue.objects.values_list("name", "priority", "source")] == [
        ("inference", 10, "admin"),
        ("mail", 2, "applied"),
        ("sms", 1, "applied"),
    ]
    assert Queue.objects.get(name="sms").updated_at == saved
    assert [record.object_name for record in audit_records().filter(action="queue.updated")] == ["mail"]


def test_equal_queues_of_the_files_replace_processes_at_once_too(client: ApiClient) -> None:
    apply(client, a=QUEUE.format("mail", 1), b=QUEUE.format("sms", 1))
    saved, revision = Queue.objects.get(name="sms").updated_at, revision_of("sms")

    apply(client, "?replace_at_once=true&dry_run=true", b=QUEUE.format("sms", 1))
    checked = revision_of("sms")
    apply(client, "?replace_at_once=true", a=QUEUE.format("mail", 2), b=QUEUE.format("sms", 1))

    assert [*Queue.objects.values_list("name", "replacements")] == [("inference", 0), ("mail", 1), ("sms", 1)]
    assert (Queue.objects.get(name="sms").updated_at, checked) == (saved, revision)
    assert revision_of("sms") > revision  # its workers register again


def test_a_member_that_the_file_does_not_have_is_reset_but_a_queue_stays_disabled(client: ApiClient) -> None:
    apply(client, a=QUEUE.format("mail", 1).replace("startup_cmd", "limits: {max_retry: 9}, startup_cmd"))
    disable_queue(name="mail")

    assert outcomes(apply(client, a=QUEUE.format("mail", 1)))[0] == ("mail", "updated")
    row = Queue.objects.get(name="mail")
    assert (row.max_retry, row.is_enabled) == (None, False)


def test_an_error_in_one_file_leaves_all_as_they_were(client: ApiClient) -> None:
    wrong = "queues:\n  sms:\n    priority: 1\n    deployment: {git_url: 'https://h/r'}\n"

    response = apply(client, a=QUEUE.format("mail", 1), b=wrong, c=QUEUE.format("mail", 2))

    assert refusal(response) == (400, "queue_invalid")
    assert problem(response)["errors"] == [
        "b.yaml:4: queues.sms.deployment.startup_cmd: This field is required.",
        "c.yaml:2: queues.mail: Already defined in a.yaml:2.",
    ]
    assert not Queue.objects.filter(name="mail").exists()


def test_files_are_applied_again_after_others_could_not_be_deleted(client: ApiClient, settings: Any) -> None:
    apply(client, a=QUEUE.format("old", 1))
    here, settings.REDIS_TARGET = settings.REDIS_TARGET, away()

    first = apply(client, "?prune=applied&force=true", a=QUEUE.format("mail", 1))
    settings.REDIS_TARGET = here
    saved = Queue.objects.get(name="mail")
    second = apply(client, "?prune=applied&force=true", a=QUEUE.format("mail", 1))
    third = apply(client, "?prune=applied&force=true", a=QUEUE.format("mail", 1))

    assert refusal(first) == (503, "broker_unavailable")
    assert problem(first)["detail"].startswith(
        "The queues of the files are saved, but not all of the others are deleted"
    )
    assert saved.priority == 1
    kept = ("inference", "kept")
    assert outcomes(second) == [("mail", "unchanged"), kept, ("old", "removed")]
    assert outcomes(third) == [("mail", "unchanged"), kept]
    assert Queue.objects.get(name="mail").updated_at == saved.updated_at
    assert audit_records().filter(action="queue.created", object_name="mail").count() == 1


def test_a_sub_queue_that_a_file_drops_is_named(client: ApiClient) -> None:
    with_subs = "queues:\n  mail: {{sub_queues: [{}], deployment: {{git_url: 'https://h/r', startup_cmd: x}}}}\n"
    apply(client, a=with_subs.format("{name: high, priority: 2}, {name: low, priority: 1}"))

    response = apply(client, "?dry_run=true", a=with_subs.format("{name: high, priority: 2}"))

    assert content(response)["queues"][0]["dropped"] == ["mail_low"]


def test_what_only_saving_finds_leaves_all_as_they_were(client: ApiClient) -> None:
    response = apply(client, a=QUEUE.format("mail", 1), b=QUEUE.format("inference_high", 1))

    assert refusal(response) == (409, "queue_name_taken")
    assert problem(response)["errors"] == [
        "b.yaml:2: queues.inference_high: The name 'inference_high' is already used by the queue inference."
    ]
    assert not Queue.objects.filter(name="mail").exists()


@pytest.mark.parametrize("prune", ["none", "applied", "all"])
def test_a_dry_run_finds_the_same_and_changes_nothing(client: ApiClient, prune: str) -> None:
    apply(client, a=QUEUE.format("mail", 1), b=QUEUE.format("old", 1))
    before = [*Queue.objects.values()]

    found = outcomes(apply(client, f"?dry_run=true&prune={prune}", a=QUEUE.format("mail", 2), b=QUEUE.format("new", 2)))

    removed = {"none": (), "applied": ("old",), "all": ("inference", "old")}[prune]
    others = [(name, "removed" if name in removed else "kept") for name in ("inference", "old")]
    assert found == [("mail", "updated"), ("new", "added"), *others]
    assert [*Queue.objects.values()] == before
    assert refusal(apply(client, "?dry_run=true", a=QUEUE.format("inference_high", 1))) == (409, "queue_name_taken")


def test_prune_deletes_what_was_applied_and_nothing_else(client: ApiClient, single_broker: Broker) -> None:
    save_queue(spec=spec("by_api"), source=QueueSource.API)
    save_queue(spec=spec("by_file"), source=QueueSource.FILE)
    apply(client, a=QUEUE.format("old", 1), b=QUEUE.format("busy", 1))
    put(single_broker, "t1", queue="busy")

    found = content(apply(client, "?prune=applied", a=QUEUE.format("mail", 1)))["queues"]

    assert {queue["queue"]: queue["outcome"] for queue in found} == {
        "mail": "added",
        "busy": "kept",
        "by_api": "kept",
        "by_file": "kept",
        "inference": "kept",
        "old": "removed",
    }
    assert found[1]["reason"] == "busy has 1 pending task; delete busy with force=true to delete them too."
    assert {*Queue.objects.values_list("name", flat=True)} == {"mail", "busy", "by_api", "by_file", "inference"}
    assert ("busy", "removed") in outcomes(apply(client, "?prune=applied&force=true", a=QUEUE.format("mail", 1)))


def test_an_equal_queue_from_elsewhere_belongs_to_the_files_from_then_on(client: ApiClient) -> None:
    apply(client, a=QUEUE.format("mail", 1))
    Queue.objects.filter(name="mail").update(source=QueueSource.API)

    assert outcomes(apply(client, a=QUEUE.format("mail", 1)))[0] == ("mail", "unchanged")
    assert Queue.objects.get(name="mail").source == QueueSource.APPLIED


@pytest.mark.parametrize(
    ("query", "body", "named"),
    [
        ("", {}, "files: This field is required."),
        ("", {"files": []}, "files: This list may not be empty."),
        ("", {"files": [{"name": "a"}]}, "files[0].content: This field is required."),
        ("", {"files": [{"name": "a", "content": ""}] * 2}, "files: Two files have the same name."),
        ("", {"files": [{"name": "a", "content": "queues: 5"}]}, "a:1: queues: Must be a mapping"),
        ("?prune=some", {"files": [{"name": "a", "content": ""}]}, "prune: Must be one of none, applied, all."),
    ],
)
def test_a_wrong_request_is_refused_by_the_name_of_its_member(
    client: ApiClient, query: str, body: dict[str, Any], named: str
) -> None:
    response = client.post(f"{PATH}{query}", body)

    assert response.status_code == 400
    assert named in str(problem(response)["errors"])
