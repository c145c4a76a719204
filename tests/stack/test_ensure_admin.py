"""The first start makes an administrator; later ones leave it alone."""

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command

pytestmark = pytest.mark.django_db


@pytest.fixture
def password_file(tmp_path):
    path = tmp_path / "admin_password"
    path.write_text("first-password\n")
    return path


def test_administrator_gets_the_kept_password(password_file):
    call_command("ensure_admin", str(password_file))

    admin = get_user_model().objects.get()
    assert admin.username == "admin"
    assert admin.is_superuser
    assert admin.check_password("first-password")


def test_changed_password_is_kept(password_file):
    call_command("ensure_admin", str(password_file))
    admin = get_user_model().objects.get()
    admin.set_password("changed-by-staff")
    admin.save()

    call_command("ensure_admin", str(password_file))

    assert get_user_model().objects.get().check_password("changed-by-staff")


def test_missing_file_is_a_one_line_error(tmp_path):
    with pytest.raises(CommandError, match="The password file cannot be read"):
        call_command("ensure_admin", str(tmp_path / "nowhere"))
