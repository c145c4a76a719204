"""Authentication by API keys: which are accepted, as whom, and until when."""

from datetime import UTC, datetime, timedelta

import pytest
import redis as redis_py
from django.core.management import call_command
from django.db import IntegrityError, transaction
from django.utils import timezone

from runqy import clock
from runqy.accounts.identities import (
    find_identity,
    generate_key,
    is_guessable,
    pop_due_uses,
    store_key_uses,
)
from runqy.accounts.models import ApiKey
from runqy.accounts.operations import create_api_key, revoke_api_key
from runqy.broker import keys
from runqy.configuration import snapshot
from runqy.configuration.documents import DocumentKind
from runqy.configuration.operations import configuration_change
from runqy.core.api_keys import Identity, Role
from runqy.errors import ApiKeyAlreadyRevoked, ApiKeyInvalid, ApiKeyNotFound, ConfigurationUnavailable
from tests.accounts.authenticating import authenticate, forget_uses
from tests.configuration.support import away, elsewhere
from tests.support.environment import ADMIN_KEY, CLIENT_KEY, WORKER_KEY

pytestmark = pytest.mark.usefixtures("configuration")


def test_the_keys_of_the_environment_have_their_roles(settings) -> None:
    found = [authenticate(key) for key in (ADMIN_KEY, WORKER_KEY, CLIENT_KEY)]

    assert [identity.role for identity in found if identity] == [Role.ADMIN, Role.WORKER, Role.CLIENT]
    assert [identity.queues for identity in found if identity] == [None, None, None]
    settings.RUNQY_WORKER_API_KEY_QUEUES = ("mail", "sms")
    assert authenticate(WORKER_KEY).queues == frozenset({"mail", "sms"})
    assert not authenticate(WORKER_KEY).may_share_redis
    assert authenticate(CLIENT_KEY).queues is None
    settings.RUNQY_API_KEY = ""
    assert authenticate(ADMIN_KEY) is None
    assert authenticate("") is None


def test_the_keys_of_the_environment_need_neither_redis_nor_database(settings, django_assert_num_queries) -> None:
    settings.REDIS_TARGET = away()

    with django_assert_num_queries(0):
        assert authenticate(CLIENT_KEY) is not None


def test_a_key_that_staff_created_is_recognised_without_the_database(django_assert_num_queries) -> None:
    created = create_api_key(name="shop", role="client", queues=["mail"])
    snapshot.get_snapshot()

    with django_assert_num_queries(0):
        identity = authenticate(created.plain)

    assert identity == Identity(role=Role.CLIENT, name="shop", queues=frozenset({"mail"}), key_id=str(created.row.pk))


def test_a_key_without_queues_is_limited_to_none() -> None:
    identity = authenticate(create_api_key(name="shop", role="admin").plain)

    assert identity is not None
    assert identity.queues is None


def test_a_key_that_another_process_has_just_created_is_known() -> None:
    with elsewhere():
        created = create_api_key(name="shop", role="client")

    assert authenticate(created.plain) is not None


def test_the_owner_of_a_key_is_found_in_memory_without_io(monkeypatch) -> None:
    known = create_api_key(name="shop", role="client")
    with elsewhere():
        created = create_api_key(name="new", role="client")
    forget_uses(monkeypatch)
    monkeypatch.setattr(snapshot, "get_broker", pytest.fail)

    assert find_identity(CLIENT_KEY) is not None
    assert find_identity(known.plain) is not None
    assert find_identity(created.plain) is None
    assert pop_due_uses() == {}
    monkeypatch.undo()
    snapshot.get_snapshot(0)
    assert find_identity(created.plain) is not None


def test_a_process_that_knows_no_configuration_knows_the_keys_of_the_environment() -> None:
    assert find_identity(CLIENT_KEY) is not None
    assert find_identity("guess") is None
    with pytest.raises(ConfigurationUnavailable):
        find_identity(generate_key())


def test_a_wrong_key_that_none_of_the_database_can_be_is_counted_without_a_configuration(
    settings, redis: redis_py.Redis, monkeypatch
) -> None:
    settings.RUNQY_CLIENT_API_KEY = "short"
    monkeypatch.setattr(snapshot, "get_broker", pytest.fail)

    assert authenticate("guess") is None
    assert authenticate("short") is not None
    assert len(redis.keys("runqy:rate:*")) == 1


def test_a_malformed_key_is_not_looked_up_in_redis(monkeypatch) -> None:
    key = generate_key()
    authenticate(key)

    monkeypatch.setattr(snapshot, "get_broker", pytest.fail)

    for text in ("", "x", f"{key}0", key[:-1], f"{key[:-1]}{'0' if key[-1] == '1' else '1'}", f"RQ_{key[3:]}"):
        assert authenticate(text) is None


def test_unknown_keys_have_no_identity() -> None:
    create_api_key(name="shop", role="client")

    for key in ("", "x", generate_key(), ApiKey.objects.get().digest, "é\ud800"):
        assert authenticate(key) is None


def test_only_a_hash_is_kept(redis: redis_py.Redis) -> None:
    created = create_api_key(name="shop", role="client")

    row = ApiKey.objects.values().get()
    published = b"".join(redis.hgetall(keys.CONFIG_DOCUMENTS).values())
    assert created.plain not in str(row)
    assert created.plain.encode() not in published
    assert created.plain not in repr(created)
    assert created.plain.startswith(row["prefix"])


def test_a_key_ends_when_it_expires(monkeypatch) -> None:
    created = create_api_key(name="shop", role="client", expires_at=timezone.now() + timedelta(hours=1))
    assert authenticate(created.plain)

    later_ns = clock.now_ns() + 3_601 * 10**9
    monkeypatch.setattr(clock, "now_ns", lambda: later_ns)

    assert authenticate(created.plain) is None


def test_a_revoked_key_ends_and_stays_revoked() -> None:
    created = create_api_key(name="shop", role="client")
    assert authenticate(created.plain)

    revoke_api_key(key_id=created.row.pk)

    assert authenticate(created.plain) is None
    with pytest.raises(ApiKeyAlreadyRevoked):
        revoke_api_key(key_id=created.row.pk)
    with pytest.raises(ApiKeyNotFound):
        revoke_api_key(key_id=created.row.pk + 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": " "},
        {"role": "root"},
        {"queues": "mail"},
        {"queues": ["a b"]},
        {"queues": ["a", 1]},
        {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)},
    ],
)
def test_an_invalid_key_is_refused(wrong: dict) -> None:
    with pytest.raises(ApiKeyInvalid):
        create_api_key(**{"name": "shop", "role": "client"} | wrong)


@pytest.mark.parametrize("columns", [{"role": "client", "vaults": ["models"]}, {"role": "metrics", "queues": ["mail"]}])
def test_the_database_refuses_a_key_whose_limit_its_role_does_not_have(columns: dict) -> None:
    row = create_api_key(name="shop", role="worker").row

    with pytest.raises(IntegrityError), transaction.atomic():
        ApiKey.objects.filter(pk=row.pk).update(**columns)


def test_uses_are_written_at_most_once_a_minute_and_reach_the_row(redis: redis_py.Redis, monkeypatch) -> None:
    created = create_api_key(name="shop", role="client")
    forget_uses(monkeypatch)
    monkeypatch.setattr(clock, "now_ns", lambda: 1_800_000_000 * 10**9)
    authenticate(created.plain)
    monkeypatch.setattr(clock, "now_ns", lambda: 1_800_000_030 * 10**9)
    authenticate(created.plain)

    assert store_key_uses() == 1
    another = str(created.row.pk + 1)
    redis.hset(keys.KEY_USES, mapping={"9" * 30: 1, "x": 2, another: "9" * 30})
    assert store_key_uses() == 0
    redis.hdel(keys.KEY_USES, "9" * 30, "x", another)

    assert redis.hgetall(keys.KEY_USES) == {str(created.row.pk).encode(): b"1800000000"}
    assert ApiKey.objects.get().last_used_at == datetime.fromtimestamp(1_800_000_000, UTC)
    assert store_key_uses() == 0


def test_a_key_is_recognised_while_redis_is_away(settings) -> None:
    created = create_api_key(name="shop", role="client")
    snapshot.forget()
    settings.REDIS_TARGET = away()

    assert authenticate(created.plain)


def test_the_command_prints_a_key_that_works(capsys) -> None:
    call_command("create_api_key", "shop", "--role", "worker", "--queue", "mail", "--expires-in", "1h")

    printed = capsys.readouterr()
    identity = authenticate(printed.out.strip())
    assert identity is not None
    assert printed.err.startswith(f"id {ApiKey.objects.get().pk}; ")
    assert "No such queue yet: mail. The key may use it once it exists.\n" in printed.err
    assert (identity.role, identity.queues) == (Role.WORKER, frozenset({"mail"}))


def test_only_a_key_as_short_as_one_of_the_environment_can_be_guessed(settings) -> None:
    assert not is_guessable("guess")  # none of the environment is short

    settings.RUNQY_WORKER_API_KEY = "a-short-one"

    assert is_guessable("guess")
    assert not is_guessable("g" * 32)
    assert not is_guessable(generate_key())


def test_workers_with_a_key_of_some_vaults_are_limited_to_them(configuration: None) -> None:
    limited = create_api_key(name="gpu", role="worker", vaults=["models", "keys", "models"])
    free = create_api_key(name="gpu", role="worker")

    assert (limited.row.vaults, free.row.vaults) == (["keys", "models"], [])
    assert authenticate(limited.plain).vaults == frozenset({"keys", "models"})
    assert authenticate(free.plain).vaults is None


@pytest.mark.parametrize("role", ["client", "admin"])
def test_only_worker_keys_are_limited_to_vaults(configuration: None, role: str) -> None:
    with pytest.raises(ApiKeyInvalid, match="Only keys with the role worker"):
        create_api_key(name="x", role=role, vaults=["models"])


@pytest.mark.parametrize("body", [b"\xff", b'{"name":"\xff"}', b"{}", b"[" * 10_000])
def test_a_key_whose_document_is_unreadable_does_not_affect_others(body: bytes) -> None:
    created = create_api_key(name="shop", role="client")
    with configuration_change() as change:
        change.put(DocumentKind.API_KEY, "0", body)

    assert authenticate(created.plain) is not None
