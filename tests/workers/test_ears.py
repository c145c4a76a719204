"""What a worker hears from Redis."""

import asyncio
from collections.abc import Callable

from runqy.broker import keys
from runqy.broker.broker import Broker
from runqy.broker.notices import Notice
from workers.runtime.ears import Ears

WAKE = "token"


def heard_after(broker: Broker, act: Callable[[], object], notice: Notice) -> str:
    """Return the subject of the first notice of a kind that is heard after something was done."""

    async def listen() -> str:
        heard: asyncio.Queue[tuple[Notice, str]] = asyncio.Queue()
        ears = Ears(broker, wake_token=WAKE, on_notice=lambda *said: heard.put_nowait(said))
        await ears.open()
        try:
            act()
            async with asyncio.timeout(30):
                while True:
                    kind, subject = await heard.get()
                    if kind is notice:
                        return subject
        finally:
            await ears.close()

    return asyncio.run(listen())


def test_a_change_of_a_queue_is_heard_with_its_name(single_broker: Broker) -> None:
    def change() -> None:
        single_broker.client.publish(keys.CHANGED_CHANNEL, "mail")

    assert heard_after(single_broker, change, Notice.CONFIGURATION) == "mail"


def test_after_a_disconnection_anything_may_have_been_missed(single_broker: Broker) -> None:
    def disconnect() -> None:
        single_broker.client.client_kill_filter(_type="pubsub")

    assert heard_after(single_broker, disconnect, Notice.GAP) == ""
