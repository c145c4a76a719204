"""What the spellings of a queue's name mean."""

import pytest

from queues.names import QueueCatalog, find_collision
from runqy.errors import QueueNotFound
from tests.queues.samples import definition, spec


def catalog(*queues, separator: str = "_") -> QueueCatalog:
    return QueueCatalog(queues, separator=separator)


@pytest.mark.parametrize("spelling", ["mail", "mail_default", "mail.default"])
def test_a_queue_without_sub_queues_answers_to_its_name_and_to_default(spelling: str) -> None:
    resolved = catalog(definition("mail")).resolve(spelling)

    assert (resolved.redis_queue, resolved.priority, resolved.queue.name) == ("mail", 5, "mail")


@pytest.mark.parametrize(("separator", "canonical"), [("_", "ai_high"), (".", "ai.high")])
@pytest.mark.parametrize("spelling", ["ai_high", "ai.high"])
def test_both_spellings_of_a_sub_queue_mean_the_canonical_one(separator: str, canonical: str, spelling: str) -> None:
    resolved = catalog(definition("ai", "high:10", "low:3"), separator=separator).resolve(spelling)

    assert (resolved.redis_queue, resolved.priority) == (canonical, 10)


def test_the_name_of_a_queue_means_its_sub_queue_default() -> None:
    assert catalog(definition("ai", "high:10", "default:2")).resolve("ai").redis_queue == "ai_default"


def test_the_name_of_a_queue_without_such_a_sub_queue_is_unknown_and_the_error_lists_what_is_valid() -> None:
    with pytest.raises(QueueNotFound, match=r"No queue 'ai'\. Valid names: ai_high, ai_low, mail\.$"):
        catalog(definition("mail"), definition("ai", "high:10", "low:3")).resolve("ai")


def test_an_error_lists_only_the_queues_that_the_search_is_limited_to() -> None:
    with pytest.raises(QueueNotFound) as caught:
        catalog(definition("mail"), definition("secret")).resolve("secret", allowed_queues=frozenset({"mail"}))

    assert caught.value.detail == "No queue 'secret'. Valid names: mail."


def test_an_error_stays_short_with_hundreds_of_queues() -> None:
    queues = [definition(f"q{i:03}") for i in range(300)]

    with pytest.raises(QueueNotFound, match="q019 and 280 more"):
        catalog(*queues).resolve("nothing")


def test_names_are_looked_up_never_split() -> None:
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
def test_queues_that_answer_to_one_name_collide(first, second, shared: str) -> None:
    assert find_collision([spec("other"), first, second]) == (first.name, second.name, shared)


def test_queues_with_names_of_their_own_do_not_collide() -> None:
    assert find_collision([spec("a", "b:1"), spec("b", "a:1"), spec("ab"), spec("a_c")]) is None
