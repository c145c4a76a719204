"""The stream of a task, followed on its page in a real browser."""

from playwright.sync_api import Page, expect

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.broker.broker import Broker
from tests.browser.conftest import Login
from tests.queues.samples import spec
from tests.support.tasks import put, take_one
from tests.tasks.task_helpers import run_again, stream, succeed

AT_END = "box => box.scrollHeight - box.scrollTop - box.clientHeight < 8"


def test_a_tasks_stream_is_followed_live_from_its_first_chunk_to_its_end(
    anonymous: Page, login: Login, single_broker: Broker
) -> None:
    save_queue(spec=spec("simple"), source=QueueSource.API)
    put(single_broker, "t1", queue="simple", retention_s=3600)
    first = take_one(single_broker, "simple")
    login(anonymous, "viewer")
    anonymous.goto("/admin/tasks/task/t1/change/?queue=simple")
    text = anonymous.locator("#stream-text")
    expect(text).to_have_count(0)

    stream(single_broker, first, b'"Once <b>upon</b> "')
    expect(text).to_have_text("Once <b>upon</b> ", use_inner_text=True)
    stream(single_broker, first, b'" a time\\n"', b'{"n":\n1}', *[b'"line\\n"'] * 100, offset=1)
    expect(text).to_contain_text('upon</b>  a time\n{"n": 1}\nline')
    assert text.evaluate(AT_END)
    text.evaluate("box => { box.scrollTop = 40 }")
    stream(single_broker, first, b'"the last of this run"', offset=103)
    expect(text).to_contain_text("the last of this run")
    assert text.evaluate("box => box.scrollTop") == 40

    second = run_again(single_broker, first)
    expect(text).to_have_count(0)
    stream(single_broker, second, b'"Again"')
    expect(text).to_have_text("Again")
    succeed(single_broker, second, b'"Again"')
    expect(anonymous.get_by_text("Completed", exact=True).first).to_be_visible()
    expect(text).to_have_text("Again")
    expect(anonymous.locator("#stream [hx-get]")).to_have_count(0)
