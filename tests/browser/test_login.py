"""Staff enter and leave the admin."""

from typing import Any

from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from tests.browser.conftest import PASSWORD


def test_an_administrator_logs_in_through_the_form_and_sees_the_index(anonymous: Page, settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher"]  # the server's
    User.objects.create_superuser("ada", password=PASSWORD)
    anonymous.goto("/admin/")
    expect(anonymous).to_have_url("/admin/login/?next=/admin/")

    anonymous.get_by_label("Username").fill("ada")
    anonymous.get_by_label("Password").fill(PASSWORD)
    anonymous.get_by_role("button", name="Log in").click()

    expect(anonymous).to_have_url("/admin/")


def test_a_wrong_password_is_a_one_line_error_and_the_name_is_kept(anonymous: Page) -> None:
    anonymous.goto("/admin/login/")

    anonymous.get_by_label("Username").fill("ada")
    anonymous.get_by_label("Password").fill("wrong")
    anonymous.get_by_role("button", name="Log in").click()

    expect(anonymous.get_by_text("Please enter the correct username and password")).to_be_visible()
    expect(anonymous.get_by_text("Please correct the error below.")).to_be_hidden()
    expect(anonymous.get_by_label("Username")).to_have_value("ada")


def test_a_user_of_a_role_is_logged_in_without_the_form(page: Page) -> None:
    page.goto("/admin/")

    expect(page).to_have_url("/admin/")
