"""A receiver of webhooks that responds to each message after 14 seconds, just before the server gives up."""

import asyncio
import threading

from tests.support.servers import free_port

RESPONDS_AFTER_S = 14.0


class SlowReceiver:
    """Listens until the process ends, on a thread of its own."""

    def __init__(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/slow"
        self.count = 0
        """How many messages it has accepted."""

        async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(RESPONDS_AFTER_S)
            writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            writer.close()
            self.count += 1

        async def serve() -> None:
            await (await asyncio.start_server(respond, "127.0.0.1", port, backlog=2048)).serve_forever()

        threading.Thread(target=asyncio.run, args=[serve()], daemon=True).start()
