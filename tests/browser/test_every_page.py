"""Every page of the admin, visited once: it loads and runs nothing but files of ours, and can be read day and night.

The fixture `watch` fails where a browser had to refuse something.
"""

import pytest
from playwright.sync_api import Page

from runqy.broker.broker import Broker
from tests.browser.pages import crawl
from tests.browser.test_contrast import FAINT
from tests.browser.test_policy import ADMIN_POLICY, policy
from tools.demo.data import fill

TURN_DARK = """() => {
  const still = new CSSStyleSheet();
  still.replaceSync("* { transition: none !important }");
  document.adoptedStyleSheets.push(still);
  document.documentElement.classList.add("dark");
}"""
"""What choosing the dark theme does, without the fading from one to the other."""


@pytest.mark.usefixtures("context")
def test_every_page_keeps_the_policy_and_has_sufficient_contrast(page: Page, single_broker: Broker) -> None:
    fill(single_broker)
    policies, faint = {}, {}
    page.on("response", lambda response: policies.setdefault(response.url, policy(response.headers)))
    page.emulate_media(color_scheme="light", reduced_motion="reduce")

    visited = []
    for path in crawl(page):
        visited.append(path)
        faint[path, "light"] = page.evaluate(FAINT)
        page.emulate_media(color_scheme="dark")
        page.evaluate(TURN_DARK)
        faint[path, "dark"] = page.evaluate(FAINT)
        page.emulate_media(color_scheme="light")

    assert len(visited) > 30, visited
    assert [url for url, found in policies.items() if "/static/" not in url and found != ADMIN_POLICY] == []
    assert {where: found for where, found in faint.items() if found} == {}
