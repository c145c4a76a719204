"""What all admin pages have in common."""

import pytest
from django import forms
from django.test import Client
from unfold import widgets

from queues.models import Queue
from runqy.admin_site.base_admin import StyledForm
from tests.queues.admin_pages import FORM

QUEUES = "/admin/queues/queue/"


class EveryField(StyledForm):
    """One field of each kind that Django would draw in its own way."""

    text = forms.CharField()
    number = forms.IntegerField()
    long = forms.CharField(widget=forms.Textarea)
    choice = forms.ChoiceField(choices=[("a", "A")])
    one = forms.ChoiceField(choices=[("a", "A")], widget=forms.RadioSelect)
    many = forms.MultipleChoiceField(choices=[("a", "A")], widget=forms.CheckboxSelectMultiple)
    timestamp = forms.SplitDateTimeField()
    switch = forms.BooleanField(widget=forms.CheckboxInput(attrs={"class": "mine"}))
    password = forms.CharField(widget=forms.PasswordInput)
    unseen = forms.CharField(widget=forms.HiddenInput)


def test_every_field_of_a_form_of_ours_looks_like_unfolds() -> None:
    fields = EveryField().fields

    for name, example in {
        "text": widgets.INPUT_CLASSES,
        "number": widgets.INPUT_CLASSES,
        "long": widgets.TEXTAREA_CLASSES,
        "choice": widgets.SELECT_CLASSES,
        "password": widgets.INPUT_CLASSES,
        "switch": [*widgets.SWITCH_CLASSES, "mine"],
    }.items():
        assert set(fields[name].widget.attrs["class"].split()) == set(example), name
    assert isinstance(fields["one"].widget, widgets.UnfoldAdminRadioSelectWidget)
    assert isinstance(fields["many"].widget, widgets.UnfoldAdminCheckboxSelectMultipleWidget)
    assert isinstance(fields["timestamp"].widget, widgets.UnfoldAdminSplitDateTimeWidget)
    assert "class" not in fields["unseen"].widget.attrs


def test_replaced_fields_keep_their_choices() -> None:
    form = EveryField({"one": "a", "many": ["a"]})

    assert 'value="a"' in str(form["one"])
    assert 'value="a"' in str(form["many"])


@pytest.mark.usefixtures("configuration")
def test_errors_of_operations_are_shown_at_their_field_and_input_is_kept(admin_client: Client) -> None:
    admin_client.post(f"{QUEUES}add/", FORM)
    subs = {"sub_queues-TOTAL_FORMS": "1", "sub_queues-0-name": "urgent", "sub_queues-0-priority": "9"}
    entered = FORM | subs | {"name": "mail_default", "branch": "a-branch-of-mine"}

    response = admin_client.post(f"{QUEUES}add/", entered)

    assert response.status_code == 200
    form = response.context["adminform"].form
    assert form.errors == {"name": ["The name 'mail_default' is already used by the queue mail."]}
    page = response.content.decode()
    assert all(f'value="{text}"' in page for text in ("mail_default", "a-branch-of-mine", "urgent"))
    assert list(Queue.objects.values_list("name", flat=True)) == ["mail"]


@pytest.mark.usefixtures("configuration")
def test_errors_without_a_field_are_shown_on_top(admin_client: Client, settings) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = ""
    form = {"name": "api-keys", "description": "kept", "entries-TOTAL_FORMS": "0", "entries-INITIAL_FORMS": "0"}

    response = admin_client.post("/admin/vaults/vault/add/", form)

    errors = response.context["adminform"].form.non_field_errors()
    assert "Vaults are locked" in errors[0]
    assert response.context["adminform"].form["description"].value() == "kept"


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("/admin/queues/queue/", "Queues"),
        ("/admin/vaults/vault/", "Vaults"),
        ("/admin/accounts/apikey/", "API keys"),
        ("/admin/auth/user/", "Users"),
        ("/admin/auth/group/", "Groups"),
        ("/admin/audit/auditrecord/", "Audit"),
    ],
)
def test_lists_are_titled_by_their_plural_names(admin_client: Client, path: str, title: str) -> None:
    response = admin_client.get(path)

    assert f"<title>{title} |" in " ".join(response.content.decode().split()).replace("<title> ", "<title>")


def test_logging_out_shows_a_page_with_a_link_to_log_in_again(admin_client: Client) -> None:
    response = admin_client.post("/admin/logout/")

    assert "You are logged out." in response.content.decode()
    assert "quality time" not in response.content.decode()
