"""Parsing of queue files, and their errors."""

import pytest

from queues.definition_serializers import parse_queue
from queues.definitions import LimitOverrides, Limits, QueueDefinition, QueueMode, QueueOrder
from queues.queue_files import parse_queue_file
from runqy.errors import QueueInvalid

FULL = """\
queues:
  inference:
    mode: one_shot
    order: strict
    sub_queues:
      - {name: high, priority: 10}
      - {name: low, priority: 3}
    deployment:
      git_url: https://github.com/example/repo.git
      branch: release/2
      code_path: worker/
      startup_cmd: python main.py
      startup_timeout_secs: 300
      requirements_file: requirements/gpu.txt
      env_vars: {LOG_LEVEL: info, PORT: 8080, VERSION: 1.10, FLAG: on, EMPTY: "", NOTHING: }
      redis_storage: false
      vaults: [api-keys, more]
      git_token: vault://github/PAT
      limits:
        max_retry: 5
        ttl_completed: 1h30m
        ttl_archived: 72h
        pending_timeout: 0
        active_timeout: 90
        retry_delay: 500ms
        retry_max_delay: 10m
        max_payload_bytes: 1MiB
        max_result_bytes: 3000
    input:
      - {name: prompt, type: [string], required: true}
      - name: width
        type: int
        default: 512
        description: pixels
    output: []
"""
WRONG = """\
queues:
  mail:
    priority: high
    mode: longrunning
    name: mail
    sub_queues: [first]
    deployment:
      git_url: 5
      vaults: [a, 7]
    input:
      - {name: x, type: integer}
"""
LAUGHS = "".join(f"{c}: &{c} [{','.join([f'*{b}'] * 10)}]\n" for b, c in zip("abcdef", "bcdefg", strict=True))
SMALL = """\
queues:
  mail:
    priority: 6
    deployment:
      git_url: https://github.com/example/repo.git
      startup_cmd: python main.py
"""


def errors(text: str | bytes) -> list[str]:
    """Return the errors of a file, from which no queue may be loaded."""
    found = parse_queue_file(text if isinstance(text, bytes) else text.encode(), file="q.yaml")
    assert found.errors
    assert not found.specs
    return [str(error) for error in found.errors]


def test_every_field_of_a_file_is_read() -> None:
    (spec,) = parse_queue_file(FULL.encode(), file="q.yaml").specs

    assert (spec.name, spec.mode, spec.order) == ("inference", QueueMode.ONE_SHOT, QueueOrder.STRICT)
    assert spec.priority == 10
    assert spec.redis_queues("_") == [("inference_high", 10), ("inference_low", 3)]
    assert spec.deployment.branch == "release/2"
    assert spec.deployment.code_path == "worker"
    assert spec.deployment.startup_timeout_s == 300
    assert spec.deployment.env_vars == {
        "LOG_LEVEL": "info", "PORT": "8080", "VERSION": "1.10", "FLAG": "on", "EMPTY": "", "NOTHING": "",
    }  # fmt: skip
    assert not spec.deployment.redis_storage
    assert spec.deployment.vaults == ("api-keys", "more")
    assert spec.deployment.referenced_vaults == ["api-keys", "github", "more"]
    assert spec.limits == LimitOverrides(
        max_retry=5,
        ttl_completed_s=5400,
        ttl_archived_s=259_200,
        pending_timeout_s=0,
        active_timeout_s=90,
        retry_delay_s=1,
        retry_max_delay_s=600,
        max_payload_bytes=1 << 20,
        max_result_bytes=3000,
    )
    assert [(field.name, field.required, field.default_json) for field in spec.input] == [
        ("prompt", True, None),
        ("width", False, "512"),
    ]


def test_missing_fields_have_defaults_and_the_servers_limits() -> None:
    (spec,) = parse_queue_file(SMALL.encode(), file="q.yaml").specs

    definition = QueueDefinition.of(spec, Limits(max_retry=9, ttl_completed_s=60))

    assert (definition.priority, definition.mode, definition.order) == (6, "long_running", "weighted")
    assert definition.deployment.branch == "main"
    assert definition.deployment.startup_timeout_s == 0
    assert definition.deployment.requirements_file == "requirements.txt"
    assert definition.deployment.redis_storage
    assert (definition.limits.max_retry, definition.limits.ttl_completed_s) == (9, 60)


def test_the_mode_may_be_set_under_deployment_if_it_is_the_same() -> None:
    under = SMALL + "      mode: one_shot\n"

    assert parse_queue_file(under.encode(), file="q.yaml").specs[0].mode == "one_shot"
    assert errors(under.replace("priority: 6", "priority: 6\n    mode: long_running")) == [
        "q.yaml:4: queues.mail.mode: deployment.mode is one_shot."
    ]


@pytest.mark.parametrize(
    ("wrong", "right", "location", "reason"),
    [
        (
            "git_ulr: https",
            "git_url: https",
            "5: queues.mail.deployment.git_ulr",
            "Unknown field; did you mean `git_url`?",
        ),
        ("piority: 6", "priority: 6", "3: queues.mail.piority", "Unknown field; did you mean `priority`?"),
        ("priority: high", "priority: 6", "3: queues.mail.priority", "Must be an integer."),
        ("priority: 0", "priority: 6", "3: queues.mail.priority", "Ensure this value is greater than or equal to 1."),
        (
            "mode: one_shot",
            "priority: 6",
            "2: queues.mail.priority",
            "This field is required unless sub_queues are given.",
        ),
        (
            "branch: x",
            "startup_cmd: python main.py",
            "4: queues.mail.deployment.startup_cmd",
            "This field is required.",
        ),
        (
            "startup_cmd: ''",
            "startup_cmd: python main.py",
            "6: queues.mail.deployment.startup_cmd",
            "This field may not be blank.",
        ),
        ("mail x:", "mail:", "2: queues.mail x.name", "Use 1 to 128 letters, digits, `.`, `_` and `-`"),
        ("queus:", "queues:", "1: queus", "Unknown field; did you mean `queues`?"),
    ],
)
def test_an_error_names_file_line_and_key(wrong: str, right: str, location: str, reason: str) -> None:
    (error,) = errors(SMALL.replace(right, wrong))

    assert error.startswith(f"q.yaml:{location}: {reason}")


@pytest.mark.parametrize(("written", "seconds"), [("5m", 300), ("90s", 90), ("120", 120), ("0", 0)])
def test_a_startup_timeout_is_a_number_of_seconds_or_a_duration(written: str, seconds: int) -> None:
    (queue,) = parse_queue_file(f"{SMALL}      startup_timeout_secs: {written}\n".encode(), file="q.yaml").specs

    assert queue.deployment.startup_timeout_s == seconds


def test_an_empty_branch_means_the_default() -> None:
    (queue,) = parse_queue_file(f"{SMALL}      branch: ''\n".encode(), file="q.yaml").specs

    assert queue.deployment.branch == "main"


@pytest.mark.parametrize(
    ("line", "key", "expected"),
    [
        ("branch: --upload-pack=x", "branch", "not a valid branch name"),
        ("branch: a..b", "branch", "not a valid branch name"),
        ("code_path: ../other", "code_path", "inside the repository"),
        ("code_path: /etc", "code_path", "inside the repository"),
        ("requirements_file: ../../x", "requirements_file", "inside the repository"),
        ("startup_timeout_secs: -1", "startup_timeout_secs", "greater than or equal to 0"),
        ("child_concurrency: 0", "child_concurrency", "greater than or equal to 1"),
        ("child_concurrency: 257", "child_concurrency", "less than or equal to 256"),
        ("startup_timeout_secs: 5 minutes", "startup_timeout_secs", "not a duration"),
        ("startup_timeout_secs: 48h", "startup_timeout_secs", "less than or equal to 86400"),
        ("env_vars: {PATH: /tmp}", "env_vars.PATH", "reserved"),
        ("env_vars: {RUNQY_X: 1}", "env_vars.RUNQY_X", "reserved"),
        ("env_vars: {A-B: 1}", "env_vars.A-B", "Use letters"),
        ("env_vars: {A: [1]}", "env_vars.A", "Must be a string"),
        ("vaults: [good, 'b d']", "vaults[1]", "Use 1 to 64"),
        ("vaults: [a, a]", "vaults[1]", "more than once"),
        ("git_token: ghp_secret", "git_token", "vault://"),
        ("limits: {ttl_completed: 1 day}", "limits.ttl_completed", "not a duration"),
        ("limits: {active_timeout: 0}", "limits.active_timeout", "Must be at least 1s, is 0s."),
        ("limits: {max_retry: -1}", "limits.max_retry", "greater than or equal to 0"),
        ("limits: {max_retires: 1}", "limits.max_retires", "did you mean `max_retry`"),
    ],
)
def test_values_that_workers_cannot_use_are_rejected(line: str, key: str, expected: str) -> None:
    (error,) = errors(f"{SMALL}      {line}\n")

    assert error.startswith(f"q.yaml:7: queues.mail.deployment.{key}: ")
    assert expected in error


@pytest.mark.parametrize(
    "url",
    [
        *("ext::sh -c id", "http://github.com/a/b", "git://h/r", "/srv/repo", "", "https://h/\x01"),
        *("-x", "--upload-pack=id", "ssh://-oProxyCommand=x/r", "ssh://-oProxyCommand=x@h/r"),
        *("https://user:pw@h/r", "https://h", "https:///r"),
    ],
)
def test_unsafe_git_urls_are_rejected(url: str) -> None:
    with pytest.raises(QueueInvalid, match=r"deployment\.git_url"):
        parse_queue("a", {"priority": 1, "deployment": {"git_url": url, "startup_cmd": "x"}})


@pytest.mark.parametrize(
    "url", ["https://github.com/a/b.git", "ssh://git@h:22/a/b", "git@github.com:a/b.git", "file:///srv/a.git"]
)
def test_valid_git_urls_are_accepted(url: str) -> None:
    spec = parse_queue("a", {"priority": 1, "deployment": {"git_url": url, "startup_cmd": "x"}})

    assert spec.deployment.git_url == url


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (
            "{name: x, type: [integer]}",
            "input[0].type[0]: Must be one of string, int, float, bool, array, object.",
        ),
        ("{name: x, type: []}", "input[0].type: This list may not be empty."),
        ("{name: x, type: int, default: wide}", "input[0].default: Must be of type int."),
        ("{name: x, type: string, default: null}", "input[0].default: This field may not be null."),
        ("{name: x, type: float, default: .nan}", "input[0].default: '.nan' has no equivalent in JSON."),
        ("{name: x, type: int, requird: true}", "input[0].requird: Unknown field; did you mean `required`?"),
        ("{type: int}", "input[0].name: This field is required."),
    ],
)
def test_an_invalid_payload_schema_is_rejected(field: str, expected: str) -> None:
    assert errors(f"{SMALL}    input:\n      - {field}\n") == [f"q.yaml:8: queues.mail.{expected}"]


def test_all_errors_of_a_file_are_reported_and_none_of_its_queues_is_loaded() -> None:
    text = SMALL + SMALL.removeprefix("queues:\n").replace("mail", "other").replace("priority", "prio")
    text += SMALL.removeprefix("queues:\n").replace("mail", "third").replace("git_url", "url")

    assert [error.split(": ")[0] for error in errors(text)] == ["q.yaml:8", "q.yaml:15"]


def test_a_duplicate_queue_or_key_is_an_error_with_its_line() -> None:
    twice = SMALL + SMALL.removeprefix("queues:\n")

    assert errors(twice) == ["q.yaml:7: queues.mail: Duplicate key."]
    assert errors(f"{SMALL}      branch: a\n      branch: b\n")[0].startswith(
        "q.yaml:8: queues.mail.deployment.branch: "
    )


def test_queues_of_a_file_that_share_a_name_are_an_error() -> None:
    text = SMALL + SMALL.removeprefix("queues:\n").replace("mail", "mail_default")

    assert errors(text) == ["q.yaml:7: queues.mail_default: The name 'mail_default' is already used by the queue mail."]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("queues: [1", 1),
        ("queues:\n  a: {\n", 3),
        ("queues:\n\ta: 1", 2),
        (b"queues:\n  \xff: 1", 2),
        ("a: &a [*a]", 1),
        ("a: *nobody", 1),
        ("queues:\n  ? [1]\n  : x", 2),
        ("[" * 5000, 1),
        ("a: &a [x]\n" + LAUGHS, 1),
        ("!!python/object:os.system x", 1),
        ("- a", 1),
        ("queues: [a]", 1),
        ("queues: false", 1),
        ("queues:\n  a: 7", 2),
        ("a: 1\n---\nb: 2", 2),
    ],
)  # fmt: skip
def test_an_invalid_file_is_an_error_with_its_line(text: str | bytes, line: int) -> None:
    assert errors(text)[0].startswith(f"q.yaml:{line}: ")


@pytest.mark.parametrize("text", ["", "# nothing\n", "queues:\n", "queues: {}"])
def test_a_file_without_queues_is_valid(text: str) -> None:
    found = parse_queue_file(text.encode(), file="q.yaml")

    assert (found.specs, found.errors) == ((), ())


def test_anchors_and_merges_are_supported() -> None:
    text = """\
queues:
  a:
    priority: 1
    deployment: &shared
      git_url: https://github.com/example/repo.git
      startup_cmd: python main.py
      branch: main
      env_vars: &env {PORT: 0x10, LEVEL: 1.0}
  b:
    priority: 2
    deployment:
      <<: *shared
      branch: other
      env_vars: {<<: *env, LEVEL: info}
"""
    first, second = parse_queue_file(text.encode(), file="q.yaml").specs

    assert second.deployment.startup_cmd == first.deployment.startup_cmd
    assert (first.deployment.branch, second.deployment.branch) == ("main", "other")
    assert first.deployment.env_vars == {"PORT": "0x10", "LEVEL": "1.0"}
    assert second.deployment.env_vars == {"PORT": "0x10", "LEVEL": "info"}


def test_all_errors_are_reported_with_the_valid_choices():
    errors = {str(error).removeprefix("f.yaml:") for error in parse_queue_file(WRONG.encode(), file="f.yaml").errors}

    assert errors == {
        "3: queues.mail.priority: Must be an integer.",
        "4: queues.mail.mode: Must be one of long_running, one_shot.",
        "5: queues.mail.name: Unknown field.",
        "6: queues.mail.sub_queues[0]: Invalid data. Expected a dictionary, but got str.",
        "7: queues.mail.deployment.startup_cmd: This field is required.",
        "8: queues.mail.deployment.git_url: Must be a string.",
        "9: queues.mail.deployment.vaults[1]: Must be a string.",
        "11: queues.mail.input[0].type: Must be one of string, int, float, bool, array, object.",
    }


@pytest.mark.parametrize("written", ["text", None, [], {"deployment": "x"}, {"deployment": {"env_vars": {"A": 1}}}])
def test_a_definition_of_the_wrong_type_is_an_error(written):
    with pytest.raises(QueueInvalid) as refused:
        parse_queue("mail", written)

    assert 1 <= len(refused.value.errors) <= 20
    assert len(set(refused.value.errors)) == len(refused.value.errors)
