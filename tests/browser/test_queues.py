"""Staff define, change and delete queues in a browser."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, Page, expect

from queues.definitions import FieldType, PayloadField
from queues.models import Queue, QueueSource
from queues.operations import save_queue
from queues.queue_files import parse_queue_file
from tests.browser.conftest import Login
from tests.browser.pages import find_wide_elements
from tests.browser.queue_form import ADD, LIST, add_row, add_sub_queue, fill_basics, open_section, save
from tests.queues.samples import spec
from tests.queues.test_operations import RICH
from tests.support.web import WebProcess
from vaults.operations import create_vault


def page_of(queue: Queue, what: str = "change") -> str:
    return f"{LIST}{queue.pk}/{what}/"


def saved(one=None) -> Queue:
    return save_queue(spec=one or spec("mail"), source=QueueSource.ADMIN)


def test_a_queue_is_created_with_sub_queues_and_with_vaults_reordered_by_keyboard(page: Page) -> None:
    create_vault(name="shared")
    create_vault(name="own")
    create_vault(name="gone")
    page.goto(ADD)
    fill_basics(page)
    add_sub_queue(page, "high", "10")
    add_sub_queue(page, "low", "3")
    add_row(page, "vaults", vault="own")
    add_row(page, "vaults", vault="shared")
    add_row(page, "input", name="prompt", type="string", description="what to draw")
    open_section(page, "Limits")
    page.get_by_label("Keep completed").fill("1h30m")

    add_row(page, "vaults", vault="gone")
    vaults = page.locator("[data-rows=vaults] [data-row]")
    vaults.nth(0).get_by_role("button", name="Move down").focus()
    page.keyboard.press("Space")
    expect(page.locator("[data-rows=vaults] [role=status]")).to_have_text("Moved to position 2 of 3.")
    vaults.nth(2).get_by_role("button", name="Remove").focus()
    page.keyboard.press("Enter")
    save(page)

    expect(page).to_have_url(LIST)
    found = Queue.objects.get().as_spec()
    assert [(sub.name, sub.priority) for sub in found.sub_queues] == [("high", 10), ("low", 3)]
    assert found.deployment.vaults == ("shared", "own")
    assert found.limits.ttl_completed_s == 5400
    assert found.input == (PayloadField(name="prompt", type=(FieldType.STRING,), description="what to draw"),)


def test_sub_queues_are_reordered_by_dragging(page: Page) -> None:
    queue = saved(spec("inference", "high:10", "low:3"))
    page.goto(page_of(queue))
    open_section(page, "Sub-queues")
    rows = page.locator("#sub_queues-data tbody.original")
    expect(page.get_by_text("Position", exact=True)).to_be_hidden()

    rows.nth(1).get_by_text("drag_indicator").drag_to(rows.nth(0))
    expect(rows.nth(0).locator("[name$='-name']")).to_have_value("low")
    save(page)

    expect(page).to_have_url(LIST)
    assert [sub.name for sub in Queue.objects.get().as_spec().sub_queues] == ["low", "high"]


def test_errors_are_shown_beside_their_fields_and_all_input_is_kept(page: Page) -> None:
    page.goto(ADD)
    fill_basics(page, "a b")
    open_section(page, "Limits")
    page.get_by_label("Keep completed").fill("soon")
    page.get_by_label("Environment variables").fill("LOG_LEVEL=info\nnonsense")
    add_sub_queue(page, "high", "0")
    add_row(page, "input", name="width", type="int", default='"wide"')
    with page.expect_navigation():
        save(page)

    def beside(name: str) -> str:
        field = page.locator(f"[name='{name}']")
        return str(field.evaluate("field => field.closest('.rq-cell, .field-row, .form-row, div.grow').innerText"))

    assert "Use 1 to 128 letters" in beside("name")
    assert "'soon' is not a duration such as 30s, 15m or 1h30m" in beside("ttl_completed_s")
    assert "Line 2: Must be KEY=value." in beside("env_vars")
    assert "greater than or equal to 1" in page.locator("#sub_queues-group").inner_text()
    assert "Must be of type int." in page.locator("[data-rows=input] .rq-cell-default").inner_text()
    assert page.locator("[name=env_vars]").input_value() == "LOG_LEVEL=info\nnonsense"
    assert page.locator("[name=sub_queues-0-name]").input_value() == "high"
    assert page.locator("[data-rows=input] [name$='-default']").first.input_value() == '"wide"'
    assert page.locator("[data-rows=input]").get_by_label("int", exact=True).first.is_checked()
    assert not Queue.objects.exists()


def test_an_added_vault_that_was_not_chosen_is_an_error_and_a_blank_sub_queue_is_none(page: Page) -> None:
    create_vault(name="shared")
    page.goto(ADD)
    fill_basics(page)
    expect(page.locator("#sub_queues-group th.required")).to_have_count(0)
    add_row(page, "vaults")
    with page.expect_navigation():
        save(page)

    expect(page.locator("[data-rows=vaults] [data-row]")).to_contain_text("Choose a vault, or remove the row.")
    assert not Queue.objects.exists()
    page.locator("[data-rows=vaults]").get_by_role("button", name="Remove").click()
    save(page)
    expect(page).to_have_url(LIST)
    assert Queue.objects.get().as_spec().deployment.vaults == ()


def test_a_sub_queue_with_a_priority_needs_a_name(page: Page) -> None:
    page.goto(ADD)
    fill_basics(page)
    add_sub_queue(page, "", "10")
    with page.expect_navigation():
        save(page)

    expect(page.locator("#sub_queues-group")).to_contain_text("This field is required.")
    assert not Queue.objects.exists()


def test_the_basics_of_a_queue_are_open_on_its_page(page: Page) -> None:
    page.goto(page_of(saved()))

    expect(page.get_by_label("Mode")).to_be_visible()
    expect(page.get_by_label("Start command")).to_be_hidden()


def test_the_example_follows_while_the_form_is_filled(page: Page) -> None:
    page.goto(ADD)
    body = page.locator("#example-body")
    fill_basics(page, "draw")
    add_row(page, "input", name="prompt", type="string")
    add_row(page, "input", name="width", type="int", default="512")
    expect(body).to_contain_text('"width": 512')
    assert json.loads(body.inner_text()) == {"queue": "draw", "data": {"prompt": "text", "width": 512}}

    page.locator("[data-rows=input] [data-row]").nth(0).get_by_role("button", name="Remove").click()
    add_sub_queue(page, "high", "5")

    expect(body).to_contain_text('"draw.high"')
    expect(body).not_to_contain_text("prompt")
    expect(page.locator("#example-curl")).to_contain_text("/queue/add")


def test_the_command_is_copied(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(ADD)
    expect(page.get_by_text("Enter the name of the queue first.")).to_be_visible()
    fill_basics(page, "mail")
    expect(page.locator("#example-body")).to_contain_text('"mail"')

    page.locator("[data-copy=example-curl]").click()

    expect(page.locator("[data-copy-status]")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#example-curl").text_content()


def test_an_edited_queue_keeps_its_other_fields(page: Page) -> None:
    for name in ("a", "b"):
        create_vault(name=name)
    queue = saved(spec("inference", "high:10", "low:3", deployment=replace(RICH.deployment, git_token="")))
    page.goto(page_of(queue))
    open_section(page, "Limits")
    page.get_by_label("Retries").fill("7")

    save(page)

    expect(page).to_have_url(LIST)
    found = Queue.objects.get().as_spec()
    assert found.limits.max_retry == 7
    assert found.deployment.vaults == ("b", "a")
    assert [sub.name for sub in found.sub_queues] == ["high", "low"]


def test_a_queue_is_paused_and_resumed_by_its_buttons(page: Page) -> None:
    queue = saved()
    page.goto(page_of(queue))

    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".rq-labels")).to_contain_text("paused")
    page.get_by_role("button", name="Resume").click()

    expect(page.locator(".rq-labels")).not_to_contain_text("paused")


def test_the_page_of_a_queue_shows_its_state_first_and_folds_its_definition(page: Page) -> None:
    queue = saved()
    page.goto(page_of(queue))

    expect(page.get_by_role("region", name="Status of the queue")).to_be_visible()
    expect(page.get_by_label("Repository")).to_be_hidden()
    open_section(page, "Deployment")
    expect(page.get_by_label("Repository")).to_be_visible()
    page.get_by_label("Repository").fill("ext::sh")
    save(page)

    expect(page.get_by_text("Must be an https")).to_be_visible()  # a section with an error is not folded
    expect(page.get_by_label("Retries")).to_be_hidden()


def test_numbers_of_the_list_end_where_their_headings_end(page: Page) -> None:
    saved()
    page.goto(LIST)

    for name in ("pending", "active", "workers"):
        cell, heading = page.locator(f"td.field-{name}"), page.locator(f"th.column-{name} .text")
        ends = [
            part.evaluate(
                "part => { const range = document.createRange(); range.selectNodeContents(part);"
                " return Math.round(range.getBoundingClientRect().right) }"
            )
            for part in (cell, heading)
        ]
        assert abs(ends[0] - ends[1]) <= 1, (name, ends)
        assert cell.evaluate("cell => getComputedStyle(cell).fontVariantNumeric") == "tabular-nums"


def test_the_list_fits_a_laptop(page: Page) -> None:
    saved()
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(LIST)

    headings = page.locator("#result_list thead th").filter(visible=True)
    expect(headings.last).to_contain_text("Workers")
    right = headings.last.evaluate("heading => heading.getBoundingClientRect().right")
    assert right <= 1280 - 16  # the frame ends there


def test_a_queue_is_cloned(page: Page) -> None:
    queue = saved(spec("mail", "high:9"))
    page.goto(page_of(queue))

    page.get_by_role("link", name="Clone").click()
    expect(page.locator("[name=name]")).to_have_value("mail-copy")
    save(page)

    expect(page).to_have_url(LIST)
    clone = Queue.objects.get(name="mail-copy").as_spec()
    assert clone.sub_queues == queue.as_spec().sub_queues


def test_an_exported_queue_is_a_queue_file(page: Page) -> None:
    queue = saved(RICH)
    page.goto(page_of(queue))

    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()

    assert download.value.suggested_filename == "inference.yaml"
    assert parse_queue_file(download.value.path().read_bytes(), file="x").specs == (RICH,)


def test_a_queue_is_deleted_once_its_name_is_entered(page: Page) -> None:
    queue = saved()
    page.goto(page_of(queue))
    page.get_by_role("link", name="Delete queue").click()
    delete = page.get_by_role("button", name="Delete the queue and its tasks")

    page.get_by_label("Name of the queue").fill("male")
    delete.click()
    expect(page.locator(".rq-error")).to_have_text("The name does not match. Enter mail to delete the queue.")
    assert Queue.objects.exists()
    page.get_by_label("Name of the queue").fill("mail")
    delete.click()

    expect(page).to_have_url(LIST)
    expect(page.locator("body")).to_contain_text("The queue mail was deleted with 0 tasks.")
    assert not Queue.objects.exists()


def test_an_operator_pauses_but_does_not_edit(page: Page, login: Login) -> None:
    queue = saved()
    login(page, "operator")
    page.goto(page_of(queue))

    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(page.get_by_role("button", name="Save", exact=True)).to_have_count(0)
    expect(page.get_by_role("button", name="Disable")).to_have_count(0)
    expect(page.locator("[name=git_url]")).to_have_count(0)


def test_nothing_is_wider_than_a_phone(page: Page) -> None:
    name = "a-rather-long-name-of-a-queue-that-was-chosen-without-thinking-of-phones"
    queue = saved(spec(name, "high:9", "low:3"))

    for what in ("change", "delete"):
        page.goto(page_of(queue, what))
        assert (what, find_wide_elements(page, 390)) == (what, [])


def test_an_empty_list_shows_the_next_step(page: Page) -> None:
    page.goto(LIST)

    expect(page.locator("#content-main")).to_contain_text("No queues yet")
    expect(page.locator("#content-main")).to_contain_text("runqy manage load_queues")


@pytest.fixture
def without_scripts(browser: Browser, site: WebProcess, login: Login) -> Iterator[Page]:
    """Return a page of a browser that runs no scripts, logged in as an administrator."""
    context = browser.new_context(base_url=site.url, java_script_enabled=False)
    page = context.new_page()
    login(page, "admin")
    yield page
    context.close()


def test_a_queue_is_made_without_scripts(without_scripts: Page) -> None:
    page = without_scripts
    page.goto(ADD)
    page.locator("[name=name]").fill("plain")
    page.locator("[name=git_url]").fill("https://h/r.git")
    page.locator("[name=startup_cmd]").fill("python main.py")
    page.locator("[name='sub_queues-0-name']").fill("high")
    page.locator("[name='sub_queues-0-priority']").fill("9")

    page.locator("[name=_save]").click()

    expect(page).to_have_url(LIST)
    found = Queue.objects.get().as_spec()
    assert [(sub.name, sub.priority) for sub in found.sub_queues] == [("high", 9)]
