"""The configuration routes, under their paths and the deprecated ones."""

from typing import Any

import pytest

from queues.models import Queue
from queues.queries import get_fresh_catalog
from runqy.accounts.operations import create_api_key
from runqy.core.api_keys import Role
from tests.api.client import ApiClient, Response, problem
from tests.configuration.support import away
from tests.queues.api.configs import BODY, DEPLOYMENT, PATHS, content, refusal, sub_queues


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
    response = content(client.post(path, BODY), 201)

    assert response["message"] == "Queue created successfully"
    queue = response["queue"]
    assert queue == content(client.get(f"{path}/simple"))
    assert (queue["name"], queue["priority"], queue["mode"], queue["source"]) == ("simple", 3, "one_shot", "api")
    assert queue["deployment"] == {
        **DEPLOYMENT,
        "mode": "one_shot",
        "code_path": "",
        "startup_timeout_secs": 0,
        "child_concurrency": None,
        "requirements_file": "requirements.txt",
        "env_vars": {},
        "redis_storage": True,
        "hide_payloads": False,
        "vaults": [],
        "git_token": "",
        "release": "manual",
        "rollout": ROLLOUT,
        "limits": {},
    }
    assert sub_queues("simple") == [("simple", 3)]


def test_every_field_of_queue_files_can_be_set_and_is_returned(client: ApiClient) -> None:
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
    assert unchanged == queue


def test_an_empty_branch_and_a_startup_timeout_of_zero_mean_the_defaults(client: ApiClient) -> None:
    body = BODY | {"deployment": DEPLOYMENT | {"branch": "", "startup_timeout_secs": 0}}

    deployment = content(client.post("/workers/queues", body), 201)["queue"]["deployment"]

    assert (deployment["branch"], deployment["startup_timeout_secs"]) == ("main", 0)


def test_an_existing_queue_is_only_updated_by_force(client: ApiClient) -> None:
    client.post("/workers/queues", BODY)
    changed = BODY | {"priority": 4}

    assert refusal(client.post("/workers/queues", changed)) == (409, "queue_exists")
    assert sub_queues("simple") == [("simple", 3)]
    assert content(client.post("/workers/queues?force=true", changed))["message"] == "Queue updated successfully"
    assert sub_queues("simple") == [("simple", 4)]


ROLLOUT = {"first": 1, "bake": 60, "max_unavailable": "25%", "replace_first": False, "keep_previous": False}
GO_BODY = {
    "name": "rich",
    "priority": 4,
    "deployment": {
        "git_url": "https://github.com/example/simple.git",
        "branch": "main",
        "startup_cmd": "python task.py",
        "mode": "long_running",
    },
}
"""What the released command line sends for `config create --name rich … --force`."""
KEPT = {
    "env_vars": {"A": "1"},
    "limits": {"max_retry": 0, "active_timeout": 300},
    "vaults": ["keys"],
    "redis_storage": False,
    "startup_timeout_secs": 90,
    "child_concurrency": 8,
    "requirements_file": "deps.txt",
    "code_path": "worker",
    "hide_payloads": True,
}


def test_an_update_of_the_released_command_line_keeps_what_it_does_not_send(client: ApiClient) -> None:
    field = {"name": "x", "type": ["int"], "required": False, "default": 7}
    body = {"name": "rich", "priority": 3, "order": "strict", "input": [field], "output": [field]}
    content(client.post("/api/cli/configs", body | {"deployment": DEPLOYMENT | KEPT | {"mode": "one_shot"}}), 201)

    queue = content(client.post("/workers/queues?force=true", GO_BODY))["queue"]

    assert (queue["priority"], queue["mode"], queue["order"]) == (4, "long_running", "strict")
    assert (queue["input"], queue["output"]) == ([field], [field])
    assert queue["deployment"] == {
        **GO_BODY["deployment"],
        **KEPT,
        "git_token": "",
        "release": "manual",
        "rollout": ROLLOUT,
    }


def test_an_update_of_a_sub_queue_by_the_released_command_line_keeps_the_rest(client: ApiClient) -> None:
    subs = [{"name": "high", "priority": 9}, {"name": "low", "priority": 2}]
    content(client.post("/api/cli/configs", GO_BODY | {"sub_queues": subs, "deployment": DEPLOYMENT | KEPT}), 201)

    update = {"name": "rich.low", "priority": 3, "deployment": GO_BODY["deployment"]}
    queue = content(client.post("/workers/queues?force=true", update))["queue"]

    assert sub_queues("rich") == [("rich_high", 9), ("rich_low", 3)]
    assert queue["deployment"]["limits"] == KEPT["limits"]


def test_a_member_that_is_sent_replaces_the_kept_one(client: ApiClient) -> None:
    content(client.post("/api/cli/configs", GO_BODY | {"deployment": DEPLOYMENT | KEPT}), 201)

    deployment = GO_BODY["deployment"] | {"vaults": [], "limits": {"max_retry": 5}, "env_vars": {}}
    queue = content(client.post("/api/cli/configs?force=true", GO_BODY | {"deployment": deployment}))["queue"]

    assert queue["deployment"]["vaults"] == []
    assert (queue["deployment"]["limits"], queue["deployment"]["env_vars"]) == ({"max_retry": 5}, {})


def test_an_update_does_not_enable_a_disabled_queue(client: ApiClient) -> None:
    client.post("/api/cli/configs", BODY | {"is_enabled": False})

    client.post("/api/cli/configs?force=true", BODY)

    assert not Queue.objects.get(name="simple").is_enabled


def test_a_dotted_name_adds_a_sub_queue(client: ApiClient) -> None:
    for name, priority in (("live.default", 5), ("live.slow", 1)):
        response = content(client.post("/workers/queues", BODY | {"name": name, "priority": priority}), 201)
        assert response["message"] == "Queue created successfully"

    assert (response["queue"]["name"], response["queue"]["queue"]) == ("live_slow", "live")
    assert sub_queues("live") == [("live_default", 5), ("live_slow", 1)]
    assert get_fresh_catalog().resolve("live").redis_queue == "live_default"


def test_an_existing_sub_queue_is_only_updated_by_force(client: ApiClient) -> None:
    body = BODY | {"name": "inference.low", "priority": 7}

    assert refusal(client.post("/workers/queues", body)) == (409, "queue_exists")
    assert content(client.post("/workers/queues?force=true", body))["message"] == "Queue updated successfully"
    assert sub_queues("inference") == [("inference_high", 10), ("inference_low", 7)]


def test_a_sub_queue_changes_the_deployment_of_the_others_only_by_force(client: ApiClient) -> None:
    body = BODY | {"name": "inference.new"}

    assert refusal(client.post("/workers/queues", body)) == (409, "queue_exists")
    assert content(client.post("/workers/queues?force=true", body), 201)["queue"]["priority"] == 3
    assert len(sub_queues("inference")) == 3


def test_a_dotted_name_adds_no_sub_queue_to_a_queue_without_any(client: ApiClient) -> None:
    client.post("/workers/queues", BODY)

    assert refusal(client.post("/workers/queues?force=true", BODY | {"name": "simple.high"})) == (409, "queue_exists")


def test_a_dotted_name_with_sub_queues_is_the_name_of_a_queue(client: ApiClient) -> None:
    content(client.post("/api/cli/configs", BODY | {"name": "v1.2", "sub_queues": []}), 201)
    content(client.post("/api/cli/configs?force=true", BODY | {"name": "v1.2", "priority": 9}))

    assert sub_queues("v1.2") == [("v1.2", 9)]


@pytest.mark.parametrize(
    ("body", "code", "expected"),
    [
        ({}, "invalid_request", "name: This field is required."),
        ({"name": 1}, "invalid_request", "name: Must be a string."),
        ({"name": None}, "invalid_request", "name: This field may not be null."),
        ({"name": ""}, "invalid_request", "name: This field may not be blank."),
        (BODY | {"is_enabled": None}, "invalid_request", "is_enabled: This field may not be null."),
        (BODY | {"is_enabled": 1}, "invalid_request", "is_enabled: Must be true or false."),
        ([], "invalid_request", "must be a JSON object"),
        ({"name": "x", "priority": 1}, "queue_invalid", "deployment: This field is required."),
        ({"name": "x", "deployment": DEPLOYMENT}, "queue_invalid", "priority: This field is required unless"),
        (BODY | {"name": "-"}, "queue_invalid", "name: Use 1 to 128"),
        (BODY | {"name": "."}, "queue_invalid", "name: Use 1 to 128"),
        (BODY | {"priority": 0}, "queue_invalid", "priority: Ensure this value"),
        (BODY | {"nonsense": 1}, "queue_invalid", "nonsense: Unknown field"),
        (BODY | {"deployment": {**DEPLOYMENT, "git_url": "ext::sh"}}, "queue_invalid", "deployment.git_url"),
        (BODY | {"deployment": {**DEPLOYMENT, "git_token": "ghp_x"}}, "queue_invalid", "deployment.git_token"),
    ],
)
def test_an_invalid_queue_is_rejected(client: ApiClient, body: Any, code: str, expected: str) -> None:
    response = client.post("/api/cli/configs", body)

    assert refusal(response) == (400, code)
    assert expected in problem(response)["errors"][0]


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
def test_values_that_a_database_cannot_store_are_rejected(client: ApiClient, body: Any) -> None:
    assert refusal(client.post("/api/cli/configs", body)) == (400, "queue_invalid")


@pytest.mark.parametrize("method", ["get", "delete"])
@pytest.mark.parametrize("name", ["%00", "%FF", "x" * 5000, "%F0%9F%92%A9", ".", "_"])
def test_an_unusual_name_is_not_found(client: ApiClient, method: str, name: str) -> None:
    assert refusal(getattr(client, method)(f"/workers/queues/{name}")) == (404, "queue_not_found")


def test_a_name_of_another_queue_is_rejected(client: ApiClient) -> None:
    assert refusal(client.post("/api/cli/configs", BODY | {"name": "inference_high"})) == (409, "queue_name_taken")


@pytest.mark.parametrize("path", ["/api/cli/configs?force=maybe", "/api/cli/configs/reload?prune=2"])
def test_a_flag_is_true_or_false(client: ApiClient, path: str) -> None:
    assert refusal(client.post(path, BODY)) == (400, "invalid_request")


@pytest.mark.parametrize("method", ["get", "delete"])
@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_queue_is_not_found(client: ApiClient, path: str, method: str) -> None:
    assert refusal(getattr(client, method)(f"{path}/nope")) == (404, "queue_not_found")


def test_a_sub_queue_is_found_by_all_its_names(client: ApiClient) -> None:
    for name in ("inference.low", "inference_low"):
        assert content(client.get(f"/api/cli/configs/{name}"))["priority"] == 3
    assert content(client.get("/api/cli/configs/inference"))["sub_queue"] is None


def test_a_change_with_an_outdated_etag_is_rejected(client: ApiClient) -> None:
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


def test_a_conditional_change_requires_an_existing_queue(client: ApiClient) -> None:
    for condition in ("*", '"any"'):
        refused = client.post("/api/cli/configs?force=true", BODY, **{"If-Match": condition})
        assert refusal(refused) == (412, "precondition_failed")
    assert not Queue.objects.filter(name="simple").exists()

    client.post("/api/cli/configs", BODY)

    assert client.post("/api/cli/configs?force=true", BODY, **{"If-Match": "*"}).status_code == 200


@pytest.mark.parametrize("name", ["inference", "inference_low"])
def test_a_response_can_be_changed_and_sent_back(client: ApiClient, name: str) -> None:
    path = f"/api/cli/configs/{name}"
    read = client.get(path)
    found = content(read)

    found["deployment"]["branch"] = "next"
    replaced = content(client.put(path, found, **{"If-Match": read["ETag"]}))["queue"]

    assert replaced["deployment"]["branch"] == "next"
    assert replaced["sub_queues"] == found["sub_queues"]
    assert sub_queues("inference") == [("inference_high", 10), ("inference_low", 3)]


def test_replacing_a_queue_requires_its_etag(client: ApiClient) -> None:
    body = {"sub_queues": [{"name": "only", "priority": 2}], "deployment": DEPLOYMENT}
    path = "/api/cli/configs/inference"
    tag = client.get(path)["ETag"]

    assert refusal(client.put(path, body)) == (428, "precondition_required")
    assert refusal(client.put(path, body, **{"If-Match": '"another"'})) == (412, "precondition_failed")
    assert refusal(client.put("/api/cli/configs/nope", body, **{"If-Match": tag})) == (404, "queue_not_found")
    assert refusal(client.put(path, body | {"name": 1}, **{"If-Match": tag})) == (400, "invalid_request")
    empty = client.put(path, {}, **{"If-Match": tag})
    assert (empty.status_code, problem(empty)["errors"]) == (400, ["deployment: This field is required."])
    replaced = content(client.put(path, body, **{"If-Match": tag}))["queue"]
    assert (replaced["name"], replaced["sub_queues"]) == ("inference", body["sub_queues"])
    assert sub_queues("inference") == [("inference_only", 2)]


def test_a_limited_key_configures_its_queues(client: ApiClient) -> None:
    client.post("/api/cli/configs", BODY)
    limited = ApiClient(create_api_key(name="ops", role=Role.ADMIN, queues=["simple"]).plain)

    assert [q["name"] for q in content(limited.get("/api/cli/configs"))["queues"]] == ["simple"]
    assert content(limited.post("/api/cli/configs?force=true", BODY | {"priority": 9}))
    assert refusal(limited.post("/api/cli/configs", BODY | {"name": "other"})) == (404, "queue_not_found")
    assert refusal(limited.get("/api/cli/configs/inference")) == (404, "queue_not_found")
    assert refusal(limited.delete("/api/cli/configs/inference")) == (404, "queue_not_found")
    assert refusal(limited.post("/api/cli/configs/reload")) == (403, "forbidden")
    assert content(limited.delete("/api/cli/configs/simple"))


def test_a_limited_key_cannot_add_vaults(client: ApiClient) -> None:
    deployment = BODY["deployment"] | {"vaults": ["api-keys"], "git_token": ""}
    client.post("/api/cli/configs", BODY | {"name": "simple", "deployment": deployment})
    limited = ApiClient(create_api_key(name="ops", role=Role.ADMIN, queues=["simple"]).plain)

    def changed(**changes: Any) -> Response:
        body = BODY | {"name": "simple", "deployment": deployment | changes}
        return limited.post("/api/cli/configs?force=true", body)

    assert content(changed(branch="other"))
    assert refusal(changed(vaults=["api-keys", "payroll"])) == (403, "forbidden")
    assert refusal(changed(git_token="vault://payroll/TOKEN")) == (403, "forbidden")
    assert Queue.objects.get(name="simple").vaults == ["api-keys"]


def test_without_redis_nothing_is_deleted(client: ApiClient, settings: Any) -> None:
    settings.REDIS_TARGET = away()

    assert refusal(client.delete("/api/cli/configs/inference")) == (503, "broker_unavailable")
    assert Queue.objects.get(name="inference").is_enabled
