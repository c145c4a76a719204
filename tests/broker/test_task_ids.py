"""Task ids are unique random UUIDs."""

import os
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from runqy.broker.tasks.enqueue import new_task_id


def test_ids_are_random_uuids_and_unique_across_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: new_task_id(), range(5000)))

    assert len(set(ids)) == 5000
    assert [str(uuid.UUID(task_id)) for task_id in ids] == ids
    assert {(uuid.UUID(task_id).version, uuid.UUID(task_id).variant) for task_id in ids} == {(4, uuid.RFC_4122)}
    assert len({task_id[19] for task_id in ids}) == 4


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # threads of other tests may linger
def test_a_forked_process_makes_other_ids() -> None:
    new_task_id()
    reader, writer = os.pipe()

    pid = os.fork()
    if pid == 0:
        os.write(writer, " ".join(new_task_id() for _ in range(300)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        childs = set(pipe.read().split())
    os.waitpid(pid, 0)

    assert len(childs) == 300
    assert not childs & {new_task_id() for _ in range(300)}
