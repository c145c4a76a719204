"""Everything on the pages of the admin can be read, by day and by night."""

from pathlib import Path

import pytest
from playwright.sync_api import Page

from demo.data import fill
from runqy.broker.broker import Broker
from tests.browser.pages import crawl

FAINT = Path(__file__).with_name("contrast.js").read_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_is_sufficient_on_every_page(page: Page, single_broker: Broker, theme: str) -> None:
    fill(single_broker)
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]

    faint = {path: found for path in crawl(page) if (found := page.evaluate(FAINT))}

    assert faint == {}


def test_low_contrast_is_found(anonymous: Page) -> None:
    anonymous.goto("/admin/login/")
    anonymous.evaluate("() => { document.querySelector('h1').append('Hardly there'); }")
    anonymous.evaluate("() => { document.querySelector('h1').style.color = '#aaa'; }")

    assert anonymous.evaluate(FAINT) == ["Hardly there: 2.32"]
