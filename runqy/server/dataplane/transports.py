"""A transport that joins the small writes of one iteration of the event loop."""

import asyncio
from typing import Any

_JOINED_BYTES = 64 << 10
"""More than this is passed on at once: joining it would cost more than another system call."""


class JoiningTransport(asyncio.Transport):
    """Sends what is written within one iteration of the event loop by one system call.

    uvicorn writes the head and the body of a response separately. Each would be a packet, and wake the client.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._pending:
            self._loop.call_soon(self.flush)
        self._pending.append(bytes(data))
        self._pending_bytes += len(data)
        if self._pending_bytes > _JOINED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Pass on what was written, unless the connection is closing."""
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        if not pending or self._transport.is_closing():
            return
        if len(pending[-1]) > _JOINED_BYTES:
            self._transport.writelines(pending)
        else:
            self._transport.write(b"".join(pending))

    def get_write_buffer_size(self) -> int:
        return self._pending_bytes + self._transport.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def write_eof(self) -> None:
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._pending, self._pending_bytes = [], 0
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def is_reading(self) -> bool:
        return self._transport.is_reading()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._transport.get_protocol()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)
