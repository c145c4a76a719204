"""Pages load and run nothing but files of ours; the fixture `watch` fails where a browser had to refuse something."""

from playwright.sync_api import Page, expect

from queues.models import QueueSource
from queues.operations import save_queue
from tests.browser.watch import Watch
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY
from tests.support.waiting import PATIENCE_S

ADMIN_POLICY = {
    "default-src 'self'",
    "script-src 'self' 'unsafe-eval'",
    "img-src 'self' data:",
    "base-uri 'self'",
    "form-action 'self'",
    "frame-ancestors 'none'",
    "object-src 'none'",
}


def policy(headers: dict[str, str]) -> set[str]:
    """Return the directives of a response's policy."""
    return set(headers["content-security-policy"].split("; "))


def test_a_browser_refuses_inline_scripts(page: Page, watch: Watch) -> None:
    watch.expected.append("Content Security Policy")
    page.goto("/admin/")

    page.evaluate("() => { document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">x</p>') }")
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.x = 1'; document.body.append(s) }"
    )

    assert page.evaluate("() => window.x") is None
    for _ in range(int(PATIENCE_S * 50)):  # the console may be late
        if len(watch.seen) >= 2:
            break
        page.wait_for_timeout(20)
    assert len(watch.seen) == 2


def test_swagger_enqueues_its_example_under_a_policy_without_eval(anonymous: Page) -> None:
    save_queue(spec=spec("mail"), source=QueueSource.API)
    response = anonymous.goto("/swagger/index.html")
    assert response is not None
    assert policy(response.headers) == ADMIN_POLICY - {"script-src 'self' 'unsafe-eval'"}

    anonymous.get_by_role("button", name="Authorize").first.click()
    anonymous.locator(".modal-ux input").first.fill(ADMIN_KEY)
    with anonymous.expect_response("**/api/schema/"):  # its examples name the queue
        anonymous.locator(".modal-ux").get_by_role("button", name="Apply credentials").first.click()
    anonymous.locator(".modal-ux").get_by_role("button", name="Close").first.click()
    operation = anonymous.locator("#operations-tasks-enqueue_task")
    operation.locator(".opblock-summary").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()

    expect(operation.locator(".live-responses-table tbody .response-col_status")).to_contain_text("200")


def test_the_curl_line_of_swagger_has_no_superfluous_headers(anonymous: Page, watch: Watch) -> None:
    watch.expected.append("401")
    anonymous.goto("/swagger/index.html")
    operation = anonymous.locator("#operations-tasks-enqueue_task")
    operation.locator(".opblock-summary").click()
    operation.get_by_role("button", name="Try it out").click()

    operation.get_by_role("button", name="Execute").click()

    line = operation.locator(".curl").inner_text()
    headers = [part.split(":")[0] for part in line.split("-H '")[1:]]
    assert headers == ["accept", "Content-Type"]
