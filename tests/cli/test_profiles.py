"""Profiles: servers and keys that `runqy login` saves, and which server a command uses."""

import json
import stat

import pytest

from runqy.cli import prompts, targets
from runqy.cli.errors import ExitCode, ServerError

ENV = {"RUNQY_SERVER_URL": "http://env", "RUNQY_API_KEY": "env-key"}
SECRET = "rq_s3cretK3ythatNobodyMayEverSee0123456789"
OWN = {"id": "7", "name": "deploy", "role": "admin", "queues": [], "vaults": []}
WORKERS = {"workers": [], "lost": []}
PROD, STAGING = "https://runqy.example.com", "https://staging.example.com"


@pytest.fixture
def login(run, server):
    """Return a function that logs in, the key on standard input."""

    def call(*options, key=SECRET, response=(200, OWN), url=PROD):
        server.responses.append(response)
        return run("login", "--server", url, *options, input=f"{key}\n")

    return call


@pytest.fixture
def file(tmp_path):
    return tmp_path / "config/runqy/profiles.json"


def last(server):
    """Return the origin and the key of the last request."""
    request = server.requests[-1]
    key = request.headers.get("authorization", "").removeprefix("Bearer ")
    return f"{request.url.scheme}://{request.url.host}", key


def test_login_saves_a_key_that_the_server_accepted(login, run, server, file):
    result = login()
    server.responses = [(200, WORKERS)]

    run("worker", "list")

    assert result.stdout == f"Logged in to {PROD} with the admin key 'deploy', saved as profile default.\n"
    assert (server.requests[0].url.path, last(server)) == ("/api/keys/self", (PROD, SECRET))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["profiles.json"]


def test_refused_key_is_not_saved(login, run, file):
    refused = login(response=(401, {"code": "unauthorized", "detail": "A valid API key is required."}))

    assert (refused.exit_code, file.exists()) == (ExitCode.DENIED, False)
    assert refused.stderr == "runqy: Not saved: A valid API key is required.\n"


def test_key_is_typed_without_being_shown(login, run, server, monkeypatch):
    monkeypatch.setattr(prompts, "is_interactive", lambda: True)

    server.responses = [(200, OWN)]
    result = run("login", input=f"{PROD}/\n{SECRET}\n")

    assert (result.exit_code, last(server)) == (0, (PROD, SECRET))
    assert f"Make a key of your own at {PROD}/admin/api-keys/" in result.stderr
    assert SECRET not in result.output


def test_no_command_prints_a_key(login, run, server):
    login()
    login("--name", "staging", url=STAGING)
    server.responses = [(200, OWN), (200, {"version": "1.0.0"})]

    outputs = [
        run("auth", "status", "-o", "json").output,
        *(run("auth", "list", "-o", each).output for each in ("json", "yaml", "name", "wide")),
        run("auth", "switch", "default", "--json").output,
        run("logout", "--json").output,
    ]

    assert SECRET not in "".join(outputs)


def test_profiles_are_listed_switched_and_removed(login, run, server):
    login()
    login("-n", "staging", url=STAGING)

    listed = run("auth", "list").stdout
    switched = run("auth", "switch", "default").stdout
    removed = run("logout").stdout
    left = run("auth", "list").stdout

    assert listed == f"default\t{PROD}\tfalse\nstaging\t{STAGING}\ttrue\n"
    assert switched == f"Switched to default: {PROD}\n"
    assert removed == "Removed: default. Use `runqy auth switch` for one of: staging.\n"
    assert left == f"staging\t{STAGING}\tfalse\n"


def test_logout_of_all(login, run, file):
    login()
    login("-n", "staging")

    assert run("logout", "--all").stdout == "Removed: default, staging.\n"
    assert run("logout").stdout == "Not logged in.\n"
    assert SECRET not in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "env", "expected"),
    [
        ((), {}, (PROD, SECRET)),
        ((), {"RUNQY_PROFILE": "staging"}, (STAGING, "staging-key")),
        (("--profile", "staging"), {"RUNQY_PROFILE": "default"}, (STAGING, "staging-key")),
        (("--profile", "staging"), ENV, (STAGING, "staging-key")),
        ((), ENV, ("http://env", "env-key")),
        ((), {"RUNQY_SERVER": "http://go", "RUNQY_API_KEY": "env-key"}, ("http://go", "env-key")),
        ((), {"RUNQY_API_KEY": "env-key"}, (PROD, "env-key")),
        (("-s", "http://flag", "-k", "flag-key"), {"RUNQY_SERVER_URL": "http://env"}, ("http://flag", "flag-key")),
        # A saved key goes to no other server.
        (("-s", "http://flag"), {}, ("http://flag", "")),
        (("-s", "http://flag", "--profile", "staging"), {}, ("http://flag", "")),
        (("-s", STAGING, "--profile", "staging"), {}, (STAGING, "staging-key")),
        ((), {"RUNQY_SERVER_URL": "http://env"}, ("http://env", "")),
    ],
)  # fmt: skip
def test_flags_precede_the_environment_and_that_the_profile(login, run, server, tmp_path, arguments, env, expected):  # noqa: PLR0917
    login("-n", "staging", key="staging-key", url=STAGING)
    login()
    (tmp_path / ".runqy").mkdir()
    (tmp_path / ".runqy/server_url").write_text("http://localhost:3077\n")
    server.responses = [(200, WORKERS)]

    result = run("worker", "list", *arguments, env=env)

    assert (result.exit_code, last(server)) == (0, expected), result.output


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("worker", "list", "--profile", "nope"), ExitCode.NOT_FOUND, "No profile 'nope'. Saved profiles: default."),
        (("auth", "switch", "nope"), ExitCode.NOT_FOUND, "No profile 'nope'."),
        (("logout", "-n", "nope"), ExitCode.NOT_FOUND, "No profile 'nope'."),
        (("login",), ExitCode.USAGE, "--server is required without a terminal."),
        (("login", "-s", "runqy.example.com"), ExitCode.USAGE, "--server: 'runqy.example.com' is not a URL"),
        (("login", "-s", PROD, "-n", "a/b"), ExitCode.USAGE, "--name: 'a/b' has other characters"),
        (("login", "-s", PROD), ExitCode.USAGE, "No API key was given."),
        (("login", "-s", PROD, "-k", "sécret"), ExitCode.USAGE, "The API key has characters that no key has."),
    ],
)
def test_bad_input_is_a_clear_error(login, run, server, arguments, status, message):  # noqa: PLR0917
    login()

    result = run(*arguments)

    assert (result.exit_code, len(server.requests)) == (status, 1)
    assert result.stderr.startswith(f"runqy: {message}")


def test_file_that_others_can_read_is_refused(login, run, server, file):
    login()
    file.chmod(0o644)

    result = run("worker", "list")

    assert (result.exit_code, len(server.requests)) == (ExitCode.FAILED, 1)
    assert result.stderr == f"runqy: Other users can read the API keys in {file}. Run `chmod 600 {file}`.\n"


def test_damaged_file_is_a_clear_error(login, run, file):
    login()
    file.write_text("{")

    assert run("worker", "list").stderr.startswith(f"runqy: {file} is damaged")


def test_folder_that_cannot_be_written_is_a_clear_error(login, tmp_path):
    (tmp_path / "config").symlink_to("/proc/none")  # where root may not make folders either

    assert "cannot be written" in login().stderr


def test_status_shows_the_server_and_what_the_key_may_do(login, run, server):
    login()
    server.responses = [(200, OWN | {"role": "client", "queues": ["mail"]}), (200, {"version": "1.0.0"})]

    result = run("auth", "status")

    assert result.stdout == (
        f"url\t{PROD}\nsource\tprofile\nprofile\tdefault\nstatus\tvalid\nrole\tclient\nkey_name\tdeploy\n"
        'queues\t["mail"]\nserver_version\t1.0.0\n'
    )


def test_status_fails_for_a_revoked_key(login, run, server):
    login()
    server.responses = [(401, {"code": "unauthorized", "detail": "A valid API key is required."})]

    result = run("auth", "status", "-o", "json")

    assert (result.exit_code, json.loads(result.stdout)["status"]) == (ExitCode.DENIED, "failing")
    assert "The address is from the profile default. Use `runqy login --name default` to replace it." in result.stderr


def test_key_for_plain_http_is_a_warning(login):
    result = login(url="http://runqy.example.com")

    assert result.exit_code == 0
    assert result.stderr == "runqy: The key is sent unencrypted: use https outside of trusted networks.\n"


def test_error_of_a_profile_names_it(login, run, monkeypatch):
    login()

    class Away:
        has_unpublished = False

        def get(self, path, **_):
            raise ServerError(f"{PROD} cannot be reached: refused", code="unreachable")

        def close(self):
            pass

    monkeypatch.setattr(targets, "make_client", lambda url, key: Away())

    result = run("worker", "list")

    assert result.exit_code == ExitCode.UNAVAILABLE
    assert "The address is from the profile default." in result.stderr
