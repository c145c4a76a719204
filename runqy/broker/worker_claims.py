"""Keeps which API key registered each worker id, where workers cannot write, for as long as the worker lives."""

from collections.abc import Sequence
from dataclasses import dataclass

from runqy.broker import keys
from runqy.broker.heartbeats import records_of
from runqy.broker.links import Reply
from runqy.broker.operation import Operation, Request, ask, ask_all, get_context
from runqy.broker.scripts import command, script
from runqy.broker.worker_records import RECORD_TTL_S
from runqy.errors import WorkerIdTaken

__all__ = ["claim_worker_id", "forget_claims"]

_ATTEMPTS = 5
_CLAIMS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class _Claim:
    """Who registered a worker id last, and when."""

    owner: str
    at_s: int

    def encode(self) -> bytes:
        return f"{self.at_s} {self.owner}".encode()

    @classmethod
    def decode(cls, content: bytes) -> "_Claim":
        """Return the claim in a hash's field; one without an owner for invalid content."""
        at_s, _, owner = content.decode(errors="replace").partition(" ")
        return cls(owner, int(at_s)) if at_s.isdigit() and len(at_s) <= 11 else cls("", 0)

    def is_fresh(self, now_s: int) -> bool:
        """Return whether the worker may not have sent its first heartbeat yet."""
        return abs(now_s - self.at_s) < RECORD_TTL_S


def claim_worker_id(worker_id: str, *, owner: str) -> Operation[None]:
    """Note that a worker registers with this owner's key.

    Raises WorkerIdTaken while a worker of this id lives that registered with another one: until a minute after its last
    heartbeat or its registration.
    """
    for _ in range(_ATTEMPTS):
        now_s = (yield from get_context()).now_ns // 10**9
        stored, alive = yield from ask(_read(worker_id))
        claim = _Claim.decode(stored)
        if claim.owner not in ("", owner) and (alive or claim.is_fresh(now_s)):
            raise WorkerIdTaken(
                f"The worker id {worker_id} belongs to a worker that is alive and registered with another API key. "
                "Choose another id, or wait until a minute after its last heartbeat."
            )
        if (yield from ask(_claim(worker_id, known=stored, content=_Claim(owner, now_s).encode()))):
            return
    raise WorkerIdTaken(f"Many workers register as {worker_id} at once.")


def forget_claims() -> Operation[None]:
    """Forget the claims of workers that no longer live, some hundred at a time."""
    cursor = b"0"
    while True:
        now_s = (yield from get_context()).now_ns // 10**9
        cursor, claims = yield from ask(_scan(cursor))
        old = {worker_id: stored for worker_id, stored in claims.items() if not _Claim.decode(stored).is_fresh(now_s)}
        records = (yield from ask(records_of(list(old), list(old)))) if old else []
        alive = {record.worker_id for record in records if record}
        gone = [(worker_id, stored) for worker_id, stored in old.items() if worker_id not in alive]
        yield from ask_all([_forget(worker_id, known=stored) for worker_id, stored in gone])
        if cursor == b"0":
            return


def _read(worker_id: str) -> Request[tuple[bytes, bool]]:
    """Ask for the claim to a worker id, and whether a worker of this id is alive."""
    claim = command("HGET", keys.WORKER_CLAIMS, worker_id, key=keys.WORKER_CLAIMS)
    records = records_of([worker_id], [worker_id])

    def parse(replies: Sequence[Reply]) -> tuple[bytes, bool]:
        return replies[0] or b"", any(records.parse(replies[1:]))

    return Request((claim, *records.commands), parse)


def _claim(worker_id: str, *, known: bytes, content: bytes) -> Request[bool]:
    call = script("claim_worker")(registrations=keys.WORKER_CLAIMS, worker_id=worker_id, known=known, content=content)
    return Request((call,), lambda replies: bool(replies[0]))


def _scan(cursor: bytes) -> Request[tuple[bytes, dict[str, bytes]]]:
    scan = command("HSCAN", keys.WORKER_CLAIMS, cursor, "COUNT", _CLAIMS_AT_ONCE, key=keys.WORKER_CLAIMS)

    def parse(replies: Sequence[Reply]) -> tuple[bytes, dict[str, bytes]]:
        next_cursor, flat = replies[0]
        return next_cursor, {
            name.decode(errors="replace"): value for name, value in zip(flat[::2], flat[1::2], strict=True)
        }

    return Request((scan,), parse)


def _forget(worker_id: str, *, known: bytes) -> Request[bool]:
    call = script("forget_claim")(registrations=keys.WORKER_CLAIMS, worker_id=worker_id, known=known)
    return Request((call,), lambda replies: bool(replies[0]))
