"""What of a page can hardly be read is found; test_every_page.py looks for it on all pages."""

from pathlib import Path

from playwright.sync_api import Page

FAINT = Path(__file__).with_name("contrast.js").read_text()


def test_low_contrast_is_found(anonymous: Page) -> None:
    anonymous.goto("/admin/login/")
    anonymous.evaluate("() => { document.querySelector('h1').append('Hardly there'); }")
    anonymous.evaluate("() => { document.querySelector('h1').style.color = '#aaa'; }")

    assert anonymous.evaluate(FAINT) == ["Hardly there: 2.32"]
