"""Store which API key registered each worker id, and for which queues, where workers cannot write, while it lives."""

from collections.abc import Sequence

from runqy.broker import keys
from runqy.broker.replies import Reply
from runqy.broker.request import AnyBroker, Request
from runqy.broker.scripts import command, script
from runqy.broker.workers.heartbeats import are_workers_listed, extend_record, read_records
from runqy.broker.workers.records import DISCONNECTED_TTL_S, WorkerClaim, WorkerRecord
from runqy.errors import WorkerIdTaken

_ATTEMPTS = 5
_SCAN_COUNT = 500


async def claim_worker_id(
    broker: AnyBroker, worker_id: str, *, owner: str, queue: str, redis_queues: Sequence[str]
) -> None:
    """Record that a worker registers with this owner's key for a queue. Its own record then counts for no other queue.

    Raise WorkerIdTaken while a live worker has this id by another owner's key: until a minute after its last heartbeat
    or its registration. A worker whose heartbeats are overdue stays listed, because it may be alive without reaching
    Redis.
    """
    # Compare-and-set: another process may register the id between the two round trips.
    for _ in range(_ATTEMPTS):
        now_s = broker.now_ns() // 10**9
        stored, record, is_alive = await broker.send(_read(worker_id, now_s=now_s))
        claim = WorkerClaim.decode(stored)
        is_own = claim.owner in ("", owner)
        if not is_own and (is_alive or claim.is_fresh(now_s)):
            raise WorkerIdTaken(
                f"The worker id {worker_id} is used by a live worker that registered with another API key. "
                "Choose another id, or wait until a minute after its last heartbeat."
            )
        if await broker.send(
            _claim(worker_id, known=stored, content=WorkerClaim(owner, now_s, queue, tuple(redis_queues)).encode())
        ):
            # It registers over HTTP, so it is alive, but cannot reach Redis.
            if is_own and record and record.is_stale(now_s):
                await broker.send(extend_record(worker_id, now_s=now_s))
            return
    raise WorkerIdTaken(f"Too many concurrent registrations of {worker_id}.")


def read_registration_times(worker_ids: Sequence[str]) -> Request[list[int]]:
    """Return when each worker last registered, in Unix s; 0 if unknown."""
    calls = (command("HMGET", keys.WORKER_CLAIMS, *worker_ids, key=keys.WORKER_CLAIMS),) if worker_ids else ()
    return Request(
        calls, lambda replies: [WorkerClaim.decode(stored or b"").at_s for reply in replies for stored in reply]
    )


async def delete_stale_claims(broker: AnyBroker) -> None:
    """Delete the claims of workers that are gone, in steps of some hundred.

    A claim stays while its worker's record exists, readable or not, and for DISCONNECTED_TTL_S after the registration:
    without a claim, a record counts for every queue that it names.
    """
    cursor = b"0"
    while True:
        now_s = broker.now_ns() // 10**9
        cursor, claims = await broker.send(_scan(cursor))
        old = {
            worker_id: stored
            for worker_id, stored in claims.items()
            if abs(now_s - WorkerClaim.decode(stored).at_s) >= DISCONNECTED_TTL_S
        }
        alive = (await broker.send(_find_reporting(list(old)))) if old else set()
        gone = [(worker_id, stored) for worker_id, stored in old.items() if worker_id not in alive]
        await broker.send_all([_delete_claim(worker_id, known=stored) for worker_id, stored in gone])
        if cursor == b"0":
            return


def _read(worker_id: str, *, now_s: int) -> Request[tuple[bytes, WorkerRecord | None, bool]]:
    """Return the claim and the record of a worker, and whether it is alive, as far as is known."""
    claim = command("HGET", keys.WORKER_CLAIMS, worker_id, key=keys.WORKER_CLAIMS)
    listed, records = are_workers_listed([worker_id], now_s=now_s), read_records([worker_id], [worker_id])

    def parse(replies: Sequence[Reply]) -> tuple[bytes, WorkerRecord | None, bool]:
        record = next(filter(None, records.parse(replies[2:])), None)
        is_alive = record is not None and (record.is_foreign or listed.parse(replies[1:2]) == [True])
        return replies[0] or b"", record, is_alive

    return Request((claim, *listed.commands, *records.commands), parse)


def _claim(worker_id: str, *, known: bytes, content: bytes) -> Request[bool]:
    call = script("claim_worker")(registrations=keys.WORKER_CLAIMS, worker_id=worker_id, known=known, content=content)
    return Request((call,), lambda replies: bool(replies[0]))


def _scan(cursor: bytes) -> Request[tuple[bytes, dict[str, bytes]]]:
    scan = command("HSCAN", keys.WORKER_CLAIMS, cursor, "COUNT", _SCAN_COUNT, key=keys.WORKER_CLAIMS)

    def parse(replies: Sequence[Reply]) -> tuple[bytes, dict[str, bytes]]:
        next_cursor, flat = replies[0]
        return next_cursor, {
            name.decode(errors="replace"): value for name, value in zip(flat[::2], flat[1::2], strict=True)
        }

    return Request((scan,), parse)


def _find_reporting(worker_ids: Sequence[str]) -> Request[set[str]]:
    """Return the workers, runqy's or Go's, that have a record, even an unreadable one."""
    pairs = [(worker_id, key(worker_id)) for worker_id in worker_ids for key in (keys.worker_record, keys.go_worker)]
    return Request(
        tuple(command("EXISTS", key, key=key) for _, key in pairs),
        lambda replies: {worker_id for (worker_id, _), exists in zip(pairs, replies, strict=True) if exists},
    )


def _delete_claim(worker_id: str, *, known: bytes) -> Request[bool]:
    call = script("delete_claim")(registrations=keys.WORKER_CLAIMS, worker_id=worker_id, known=known)
    return Request((call,), lambda replies: bool(replies[0]))
