"""The configuration routes, under the paths of the reference and of the released command line."""

from typing import Any

import pytest

from queues.models import Queue
from queues.queries import get_fresh_catalog
from runqy.accounts.identity import Role
from runqy.accounts.operations import create_api_key
from tests.api.client import Answer, ApiClient, problem
from tests.publication.support import away
from tests.queues_api.configs import BODY, DEPLOYMENT, PATHS, content, refusal, sub_queues
from tests.support.environment import CLIENT_KEY, WORKER_KEY


@pytest.mark.parametrize("path", PATHS)
def test_every_redis_queue_is_listed_with_its_configuration(client: ApiClient, path: str) -> None:
    content(client.post(path, BODY), 201)

    found = content(client.get(path))

    assert [(q["name"], q["priority"], q["queue"], q["sub_queue"]) for q in found["queues"]] == [
        ("inference_high", 10, "inference", "high"),
        ("inference_low", 3, "inference", "low"),
        ("simple", 3, "simple", None),
    ]
    assert found["count"] == 3


@pytest.mark.parametrize("path", PATHS)
def test_a_queue_is_created(client: ApiClient, path: str) -> None:
    answer = content(client.post(path, BODY), 201)

    assert answer["message"] == "Queue created successfully"
    queue = answer["queue"]
    assert queue == content(client.get(f"{path}/simple"))
    assert (queue["name"], queue["priority"], queue["mode"], queue["source"]) == ("simple", 3, "one_shot", "api")
    assert queue["deployment"] == {
        **DEPLOYMENT,
        "mode": "one_shot",
        "code_path": "",
        "startup_timeout_secs": 60,
        "requirements_file": "requirements.txt",
        "env_vars": {},
        "redis_storage": True,
        "vaults": [],
        "git_token": "",
        "limits": {},
    }
    assert sub_queues("simple") == [("simple", 3)]


def test_all_that_queue_files_know_can_be_stated_and_is_shown(client: ApiClient) -> None:
    body = {
        "name": "rich",
        "order": "strict",
        "sub_queues": [{"name": "a", "priority": 2}, {"name": "b", "priority": 1}],
        "deployment": {
            **DEPLOYMENT,
            "env_vars": {"A": "1"},
            "limits": {"max_retry": 0, "active_timeout": "5m"},
            "git_token": "vault://v/T",
        },
        "input": [{"name": "x", "type": ["int"], "required": False, "default": 7}],
        "is_enabled": False,
    }

    queue = content(client.post("/api/cli/configs", body), 201)["queue"]

    assert (queue["name"], queue["priority"], queue["sub_queues"]) == ("rich", 2, body["sub_queues"])
    assert queue["deployment"]["limits"] == {"max_retry": 0, "active_timeout": 300}
    assert (queue["order"], queue["input"], queue["is_enabled"]) == ("strict", body["input"], False)
    again = {name: queue[name] for name in ("name", "priority", "sub_queues", "order", "deployment", "input", "output")}
    unchanged = content(client.post("/api/cli/configs?force=true", again))["queue"]
    assert unchanged == queue | {"updated_at": unchanged["updated_at"]}


def test_a_queue_that_exists_is_only_updated_by_force(client: ApiClient) -> None:
    client.post("/workers/queues", BODY)
    changed = BODY | {"priority": 4}

    assert refusal(client.post("/workers/queues", changed)) == (409, "queue_exists")
    assert sub_queues("simple") == [("simple", 3)]
    assert content(client.post("/workers/queues?force=true", changed))["message"] == "Queue updated successfully"
    assert sub_queues("simple") == [("simple", 4)]


def test_an_update_leaves_a_disabled_queue_disabled(client: ApiClient) -> None:
    client.post("/api/cli/configs", BODY | {"is_enabled": False})

    client.post("/api/cli/configs?force=true", BODY)

    assert not Queue.objects.get(name="simple").is_enabled


def test_a_dotted_name_adds_a_sub_queue(client: ApiClient) -> None:
    for name, priority in (("live.default", 5), ("live.slow", 1)):
        answer = content(client.post("/workers/queues", BODY | {"name": name, "priority": priority}), 201)
        assert answer["message"] == "Queue created successfully"

    assert (answer["queue"]["name"], answer["queue"]["queue"]) == ("live_slow", "live")
    assert sub_queues("live") == [("live_default", 5), ("live_slow", 1)]
    assert get_fresh_catalog().resolve("live").redis_queue == "live_default"


def test_a_sub_queue_that_exists_is_only_updated_by_force(client: ApiClient) -> None:
    body = BODY | {"name": "inference.low", "priority": 7}

    assert refusal(client.post("/workers/queues", body)) == (409, "queue_exists")
    assert content(client.post("/workers/queues?force=true", body))["message"] == "Queue updated successfully"
    assert sub_queues("inference") == [("inference_high", 10), ("inference_low", 7)]


def test_a_sub_queue_does_not_change_the_deployment_of_the_others_unasked(client: ApiClient) -> None:
    body = BODY | {"name": "inference.new"}

    assert refusal(client.post("/workers/queues", body)) == (409, "queue_exists")
    assert content(client.post("/workers/queues?force=true", body), 201)["queue"]["priority"] == 3
    assert len(sub_queues("inference")) == 3


def test_a_queue_without_sub_queues_is_not_divided_behind_its_tasks(client: ApiClient) -> None:
    client.post("/workers/queues", BODY)

    assert refusal(client.post("/workers/queues?force=true", BODY | {"name": "simple.high"})) == (409, "queue_exists")


def test_a_dotted_name_with_sub_queues_is_a_name_as_it_is(client: ApiClient) -> None:
    content(client.post("/api/cli/configs", BODY | {"name": "v1.2", "sub_queues": []}), 201)
    content(client.post("/api/cli/configs?force=true", BODY | {"name": "v1.2", "priority": 9}))

    assert sub_queues("v1.2") == [("v1.2", 9)]


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ({}, "invalid_request", "name: This field is required."),
        ({"name": 1}, "invalid_request", "name: Must be a string."),
        ({"name": None}, "invalid_request", "name: This field may not be null."),
        ({"name": ""}, "invalid_request", "name: This field may not be blank."),
        (BODY | {"is_enabled": None}, "invalid_request", "is_enabled: This field may not be null."),
        (BODY | {"is_enabled": 1}, "invalid_request", "is_enabled: Must be true or false."),
        ([], "invalid_request", "must be a JSON object"),
        ({"name": "x", "priority": 1}, "queue_invalid", "`deployment` is missing"),
        ({"name": "x", "deployment": DEPLOYMENT}, "queue_invalid", "`priority` is missing"),
        (BODY | {"name": "-"}, "queue_invalid", "name: a name has"),
        (BODY | {"name": "."}, "queue_invalid", "name: a name has"),
        (BODY | {"priority": 0}, "queue_invalid", "priority: a priority is from"),
        (BODY | {"nonsense": 1}, "queue_invalid", "nonsense: unknown key"),
        (BODY | {"deployment": {**DEPLOYMENT, "git_url": "ext::sh"}}, "queue_invalid", "deployment.git_url"),
        (BODY | {"deployment": {**DEPLOYMENT, "git_token": "ghp_x"}}, "queue_invalid", "deployment.git_token"),
    ],
)
def test_a_queue_that_is_not_well_stated_is_refused(client: ApiClient, body: Any, code: str, says: str) -> None:
    answer = client.post("/api/cli/configs", body)

    assert refusal(answer) == (400, code)
    assert says in problem(answer)["errors"][0]


NUL = "a\0b"


@pytest.mark.parametrize(
    "body",
    [
        BODY | {"name": NUL},
        BODY | {"name": f"{NUL}.x"},
        BODY | {"priority": 2**40},
        BODY | {"input": [{"name": NUL, "type": "int"}]},
        BODY | {"output": [{"name": "x", "type": "int", "description": NUL}]},
        BODY | {"input": [{"name": "x", "type": "string", "default": NUL}]},
        BODY | {"input": [{"name": "x", "type": "array", "default": [{NUL: 1}]}]},
        *(
            BODY | {"deployment": DEPLOYMENT | changed}
            for changed in (
                {"branch": NUL},
                {"code_path": NUL},
                {"startup_cmd": NUL},
                {"startup_cmd": "x" * 5000},
                {"git_url": "https://h/" + "x" * 3000},
                {"code_path": "x" * 2000},
                {"requirements_file": NUL},
                {"requirements_file": "x" * 2000},
                {"env_vars": {"A": NUL}},
                {"env_vars": {NUL: "1"}},
                {"vaults": [NUL]},
                {"git_token": NUL},
                {"startup_timeout_secs": 2**40},
                {"startup_timeout_secs": -1},
                {"limits": {"max_retry": 2**70}},
                {"limits": {"ttl_completed": 2**70}},
            )
        ),
    ],
)
def test_what_a_database_cannot_hold_is_refused_before(client: ApiClient, body: Any) -> None:
    assert refusal(client.post("/api/cli/configs", body)) == (400, "queue_invalid")


@pytest.mark.parametrize("method", ["get", "delete"])
@pytest.mark.parametrize("name", ["%00", "%FF", "x" * 5000, "%F0%9F%92%A9", ".", "_"])
def test_no_name_is_too_odd_to_be_unknown(client: ApiClient, method: str, name: str) -> None:
    assert refusal(getattr(client, method)(f"/workers/queues/{name}")) == (404, "queue_not_found")


def test_a_name_that_another_queue_answers_to_is_refused(client: ApiClient) -> None:
    assert refusal(client.post("/api/cli/configs", BODY | {"name": "inference_high"})) == (409, "queue_name_taken")


@pytest.mark.parametrize("path", ["/api/cli/configs?force=maybe", "/api/cli/configs/reload?prune=2"])
def test_a_flag_is_true_or_false(client: ApiClient, path: str) -> None:
    assert refusal(client.post(path, BODY)) == (400, "invalid_request")


@pytest.mark.parametrize("method", ["get", "delete"])
@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_queue_is_not_found(client: ApiClient, path: str, method: str) -> None:
    assert refusal(getattr(client, method)(f"{path}/nope")) == (404, "queue_not_found")


def test_a_sub_queue_is_shown_by_any_spelling(client: ApiClient) -> None:
    for name in ("inference.low", "inference_low"):
        assert content(client.get(f"/api/cli/configs/{name}"))["priority"] == 3
    assert content(client.get("/api/cli/configs/inference"))["sub_queue"] is None


def test_a_change_is_made_to_what_was_read_or_not_at_all(client: ApiClient) -> None:
    client.post("/api/cli/configs", BODY)
    tag = client.get("/api/cli/configs/simple")["ETag"]
    assert client.get("/api/cli/configs/simple", **{"If-None-Match": tag}).status_code == 304

    changed = client.post("/api/cli/configs?force=true", BODY | {"priority": 8}, **{"If-Match": tag})

    assert changed.status_code == 200
    assert changed["ETag"] == client.get("/api/cli/configs/simple")["ETag"] != tag
    stale = client.post("/api/cli/configs?force=true", BODY | {"priority": 9}, **{"If-Match": tag})
    assert refusal(stale) == (412, "precondition_failed")
    assert refusal(client.delete("/api/cli/configs/simple", **{"If-Match": tag})) == (412, "precondition_failed")
    assert sub_queues("simple") == [("simple", 8)]


def test_only_what_exists_is_changed_under_a_condition(client: ApiClient) -> None:
    for condition in ("*", '"any"'):
        refused = client.post("/api/cli/configs?force=true", BODY, **{"If-Match": condition})
        assert refusal(refused) == (412, "precondition_failed")
    assert not Queue.objects.filter(name="simple").exists()

    client.post("/api/cli/configs", BODY)

    assert client.post("/api/cli/configs?force=true", BODY, **{"If-Match": "*"}).status_code == 200


@pytest.mark.parametrize("name", ["inference", "inference_low"])
def test_what_was_read_can_be_changed_and_sent_back(client: ApiClient, name: str) -> None:
    path = f"/api/cli/configs/{name}"
    read = client.get(path)
    found = content(read)

    found["deployment"]["branch"] = "next"
    replaced = content(client.put(path, found, **{"If-Match": read["ETag"]}))["queue"]

    assert replaced["deployment"]["branch"] == "next"
    assert replaced["sub_queues"] == found["sub_queues"]
    assert sub_queues("inference") == [("inference_high", 10), ("inference_low", 3)]


def test_a_queue_is_replaced_only_by_who_knows_what_it_is(client: ApiClient) -> None:
    body = {"sub_queues": [{"name": "only", "priority": 2}], "deployment": DEPLOYMENT}
    path = "/api/cli/configs/inference"
    tag = client.get(path)["ETag"]

    assert refusal(client.put(path, body)) == (428, "precondition_required")
    assert refusal(client.put(path, body, **{"If-Match": '"another"'})) == (412, "precondition_failed")
    assert refusal(client.put("/api/cli/configs/nope", body, **{"If-Match": tag})) == (404, "queue_not_found")
    assert refusal(client.put(path, body | {"name": 1}, **{"If-Match": tag})) == (400, "invalid_request")
    empty = client.put(path, {}, **{"If-Match": tag})
    assert (empty.status_code, problem(empty)["errors"]) == (400, ["`deployment` is missing"])
    replaced = content(client.put(path, body, **{"If-Match": tag}))["queue"]
    assert (replaced["name"], replaced["sub_queues"]) == ("inference", body["sub_queues"])
    assert sub_queues("inference") == [("inference_only", 2)]


def test_a_key_of_some_queues_configures_these(client: ApiClient) -> None:
    client.post("/api/cli/configs", BODY)
    limited = ApiClient(create_api_key(name="ops", role=Role.ADMIN, queues=["simple"]).plain)

    assert [q["name"] for q in content(limited.get("/api/cli/configs"))["queues"]] == ["simple"]
    assert content(limited.post("/api/cli/configs?force=true", BODY | {"priority": 9}))
    assert refusal(limited.post("/api/cli/configs", BODY | {"name": "other"})) == (404, "queue_not_found")
    assert refusal(limited.get("/api/cli/configs/inference")) == (404, "queue_not_found")
    assert refusal(limited.delete("/api/cli/configs/inference")) == (404, "queue_not_found")
    assert refusal(limited.post("/api/cli/configs/reload")) == (403, "forbidden")
    assert content(limited.delete("/api/cli/configs/simple"))


def test_a_key_of_some_queues_lets_them_use_no_other_vaults(client: ApiClient) -> None:
    deployment = BODY["deployment"] | {"vaults": ["api-keys"], "git_token": ""}
    client.post("/api/cli/configs", BODY | {"name": "simple", "deployment": deployment})
    limited = ApiClient(create_api_key(name="ops", role=Role.ADMIN, queues=["simple"]).plain)

    def changed(**changes: Any) -> Answer:
        body = BODY | {"name": "simple", "deployment": deployment | changes}
        return limited.post("/api/cli/configs?force=true", body)

    assert content(changed(branch="other"))
    assert refusal(changed(vaults=["api-keys", "payroll"])) == (403, "forbidden")
    assert refusal(changed(git_token="vault://payroll/TOKEN")) == (403, "forbidden")
    assert Queue.objects.get(name="simple").vaults == ["api-keys"]


ROUTES = [(method, path) for path in PATHS for method in ("get", "post")]
ROUTES += [(method, f"{path}/inference") for path in PATHS for method in ("get", "delete")]
ROUTES += [("post", "/api/cli/configs/reload"), ("post", "/workers/reload")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(("key", "status"), [(None, 401), ("wrong", 401), (WORKER_KEY, 403), (CLIENT_KEY, 403)])
def test_only_administrators_get_in(client: ApiClient, method: str, path: str, key: str | None, status: int) -> None:
    answer = getattr(ApiClient(key), method)(path)

    assert answer.status_code == status
    problem(answer)
    assert Queue.objects.filter(name="inference").exists()


def test_without_redis_nothing_is_removed(client: ApiClient, settings: Any) -> None:
    settings.REDIS_TARGET = away()

    assert refusal(client.delete("/api/cli/configs/inference")) == (503, "broker_unavailable")
    assert Queue.objects.get(name="inference").is_enabled
