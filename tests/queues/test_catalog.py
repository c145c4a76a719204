"""The names and aliases of queues."""

import pytest

from queues.catalog import QueueCatalog, find_name_collision
from queues.definitions import QueueDefinition
from runqy.errors import QueueNotFound
from tests.queues.samples import definition, spec


def catalog(*queues, separator: str = "_") -> QueueCatalog:
    return QueueCatalog(queues, separator=separator)


@pytest.mark.parametrize("spelling", ["mail", "mail_default", "mail.default"])
def test_a_queue_without_sub_queues_has_its_name_and_default_as_names(spelling: str) -> None:
    resolved = catalog(definition("mail")).resolve(spelling)

    assert (resolved.redis_queue, resolved.priority, resolved.queue.name) == ("mail", 5, "mail")


@pytest.mark.parametrize("spelling", ["mail", "mail_default", "mail.default"])
def test_with_a_dot_a_queue_without_sub_queues_is_named_as_the_go_system_names_it(spelling: str) -> None:
    names = catalog(definition("mail"), separator=".")

    assert names.resolve(spelling).redis_queue == "mail.default"
    assert names.redis_queues() == ["mail.default"]
    assert names.for_worker(spelling)[1] == [("mail.default", 5)]


@pytest.mark.parametrize(
    ("queue", "separator", "alias", "defined"),
    [
        (definition("mail"), "_", "mail.default", "mail"),
        (definition("mail"), ".", "mail_default", "mail.default"),
        (definition("ai", "high:10"), "_", "ai.high", "ai_high"),
    ],
)
def test_a_redis_queue_that_exists_under_an_alias_is_what_the_alias_means_and_workers_serve_it(
    queue: QueueDefinition, separator: str, alias: str, defined: str
) -> None:
    names = QueueCatalog([queue], separator=separator, existing={queue.name: {alias}})

    assert names.resolve(alias).redis_queue == alias
    assert names.resolve(defined).redis_queue == defined
    assert [name for name, _ in names.for_worker(queue.name)[1]] == [defined, alias]
    assert names.redis_queues() == [defined, alias]


def test_the_own_name_of_a_queue_means_its_defined_redis_queue_even_if_one_of_that_name_exists() -> None:
    queue = definition("mail")
    names = QueueCatalog([queue], separator=".", existing={"mail": {"mail"}})

    assert names.resolve("mail").redis_queue == "mail.default"
    assert names.for_worker("mail")[1] == [("mail.default", 5), ("mail", 5)]


@pytest.mark.parametrize(("separator", "canonical"), [("_", "ai_high"), (".", "ai.high")])
@pytest.mark.parametrize("spelling", ["ai_high", "ai.high"])
def test_both_separators_mean_the_same_sub_queue(separator: str, canonical: str, spelling: str) -> None:
    resolved = catalog(definition("ai", "high:10", "low:3"), separator=separator).resolve(spelling)

    assert (resolved.redis_queue, resolved.priority) == (canonical, 10)


def test_the_name_of_a_queue_means_its_sub_queue_default() -> None:
    assert catalog(definition("ai", "high:10", "default:2")).resolve("ai").redis_queue == "ai_default"


def test_the_name_of_a_queue_without_a_default_sub_queue_means_none_and_the_error_lists_its_sub_queues() -> None:
    with pytest.raises(QueueNotFound, match=r"^The queue 'ai' has sub-queues; name one: ai_high, ai_low\.$"):
        catalog(definition("mail"), definition("ai", "high:10", "low:3")).resolve("ai")


def test_an_error_lists_only_allowed_queues() -> None:
    with pytest.raises(QueueNotFound) as caught:
        catalog(definition("mail"), definition("secret")).resolve("secret", allowed_queues=frozenset({"mail"}))

    assert caught.value.detail == "No queue 'secret'. Valid names: mail."


def test_an_error_stays_short_with_hundreds_of_queues() -> None:
    queues = [definition(f"q{i:03}") for i in range(300)]

    with pytest.raises(QueueNotFound, match="q019 and 280 more"):
        catalog(*queues).resolve("nothing")


def test_names_are_looked_up_and_not_split() -> None:
    names = catalog(definition("a.b_c"), definition("x_y", "z:1"))

    assert names.resolve("a.b_c").redis_queue == "a.b_c"
    assert names.resolve("x_y.z").redis_queue == "x_y_z"
    assert names.find("a") is names.find("x") is None


def test_a_worker_serves_all_sub_queues_or_the_one_it_names() -> None:
    names = catalog(definition("ai", "high:10", "default:2"), definition("mail"))

    assert names.for_worker("ai")[1] == [("ai_high", 10), ("ai_default", 2)]
    assert names.for_worker("ai.high")[1] == [("ai_high", 10)]
    assert names.for_worker("mail")[1] == [("mail", 5)]
    with pytest.raises(QueueNotFound):
        names.for_worker("ai_low")


def test_a_catalog_lists_every_redis_queue() -> None:
    names = catalog(definition("mail"), definition("ai", "high:10", "low:3"))

    assert names.redis_queues() == ["ai_high", "ai_low", "mail"]


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        (spec("a", "b:1"), spec("a_b"), "a_b"),
        (spec("a", "b:1"), spec("a.b"), "a.b"),
        (spec("a_b", "c:1"), spec("a", "b_c:1"), "a_b_c"),
        (spec("a"), spec("a_default"), "a_default"),
    ],
)
def test_queues_that_share_a_name_collide(first, second, shared: str) -> None:
    assert find_name_collision([spec("other"), first, second]) == (first.name, second.name, shared)


def test_queues_with_different_names_do_not_collide() -> None:
    assert find_name_collision([spec("a", "b:1"), spec("b", "a:1"), spec("ab"), spec("a_c")]) is None
