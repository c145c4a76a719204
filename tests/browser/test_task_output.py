"""The output of a task, followed on its page in a real browser."""

from playwright.sync_api import Page, expect

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from runqy.broker.tasks.lease import LeasedTask
from runqy.broker.tasks.output import OutputChunk, write_output
from tests.browser.conftest import Login
from tests.queues.samples import spec
from tests.support.tasks import put, take_one
from tests.tasks.task_helpers import succeed


def say(broker: Broker, taken: LeasedTask, text: str, offset: int = 0, progress: bytes = b"") -> int:
    """Write what a task printed; returns the next offset."""
    chunk = OutputChunk(lease=taken.lease, offset=offset, text=text.encode(), progress=progress)
    broker.run(write_output([chunk]))
    return offset + len(text.encode())


def test_a_tasks_output_is_followed_live_paused_and_complete(
    anonymous: Page, login: Login, single_broker: Broker
) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    put(single_broker, "t1", queue="simple", retention_s=3600)
    taken = take_one(single_broker, "simple")
    offset = say(single_broker, taken, "".join(f"epoch {n}\n" for n in range(100)))
    login(anonymous, "viewer")
    anonymous.goto("/admin/tasks/task/t1/change/?queue=simple")
    text = anonymous.locator("#output-text")
    expect(text).to_contain_text("epoch 99")
    at_end = "box => box.scrollHeight - box.scrollTop - box.clientHeight < 8"
    assert text.evaluate(at_end)

    offset = say(single_broker, taken, "epoch 100\n", offset, b'{"current":1,"total":4,"message":"training"}')
    expect(text).to_contain_text("epoch 100")
    expect(anonymous.get_by_role("progressbar")).to_have_attribute("value", "25")
    assert text.evaluate(at_end)

    text.evaluate("box => { box.scrollTop = 40 }")
    offset = say(single_broker, taken, "epoch 101\n", offset)
    expect(text).to_contain_text("epoch 101")
    assert text.evaluate("box => box.scrollTop") == 40

    anonymous.get_by_role("button", name="Pause").click()
    expect(anonymous.get_by_text("Paused")).to_be_visible()
    offset = say(single_broker, taken, "epoch 102\n", offset)
    anonymous.wait_for_timeout(2500)  # one poll would have happened
    expect(text).not_to_contain_text("epoch 102")
    anonymous.get_by_role("button", name="Resume").click()
    expect(text).to_contain_text("epoch 102")

    succeed(single_broker, taken, b'{"ok":true}')
    expect(anonymous.get_by_text("Completed", exact=True).first).to_be_visible()
    expect(anonymous.get_by_role("button", name="Pause")).to_have_count(0)


def test_the_progress_stands_above_the_output(page: Page, single_broker: Broker) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    put(single_broker, "t1", queue="simple")
    taken = take_one(single_broker, "simple")
    say(single_broker, taken, "one\ntwo\n", progress=b'{"current":3,"total":10,"message":"resizing"}')

    page.goto("/admin/tasks/task/t1/change/?queue=simple")

    label, output = page.get_by_text("3 of 10, 30 %").bounding_box(), page.locator("#output-text").bounding_box()
    assert label is not None
    assert output is not None
    assert label["y"] + label["height"] <= output["y"]
