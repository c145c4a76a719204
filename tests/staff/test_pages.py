"""What all admin pages have in common."""

import pytest
from django import forms
from django.test import Client
from unfold import widgets

from queues.models import Queue
from runqy.staff.pages import StaffForm
from tests.queues.admin_pages import FORM

QUEUES = "/admin/queues/queue/"


class EveryField(StaffForm):
    """One field of each kind that Django would draw in its own way."""

    text = forms.CharField()
    number = forms.IntegerField()
    long = forms.CharField(widget=forms.Textarea)
    choice = forms.ChoiceField(choices=[("a", "A")])
    one = forms.ChoiceField(choices=[("a", "A")], widget=forms.RadioSelect)
    many = forms.MultipleChoiceField(choices=[("a", "A")], widget=forms.CheckboxSelectMultiple)
    moment = forms.SplitDateTimeField()
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
    assert isinstance(fields["moment"].widget, widgets.UnfoldAdminSplitDateTimeWidget)
    assert "class" not in fields["unseen"].widget.attrs


def test_replaced_fields_keep_their_choices() -> None:
    form = EveryField({"one": "a", "many": ["a"]})

    assert 'value="a"' in str(form["one"])
    assert 'value="a"' in str(form["many"])


@pytest.mark.usefixtures("configuration")
def test_what_an_operation_refuses_stands_at_its_field_and_all_input_is_kept(admin_client: Client) -> None:
    admin_client.post(f"{QUEUES}add/", FORM)
    subs = {"sub_queues-TOTAL_FORMS": "1", "sub_queues-0-name": "urgent", "sub_queues-0-priority": "9"}
    entered = FORM | subs | {"name": "mail_default", "branch": "a-branch-of-mine"}

    answer = admin_client.post(f"{QUEUES}add/", entered)

    assert answer.status_code == 200
    form = answer.context["adminform"].form
    assert form.errors == {"name": ["The queue mail answers to 'mail_default' too."]}
    page = answer.content.decode()
    assert all(f'value="{text}"' in page for text in ("mail_default", "a-branch-of-mine", "urgent"))
    assert list(Queue.objects.values_list("name", flat=True)) == ["mail"]


@pytest.mark.usefixtures("configuration")
def test_a_refusal_about_no_field_stands_on_top(admin_client: Client, settings) -> None:
    settings.RUNQY_VAULT_MASTER_KEY = ""
    form = {"name": "api-keys", "description": "kept", "entries-TOTAL_FORMS": "0", "entries-INITIAL_FORMS": "0"}

    answer = admin_client.post("/admin/vaults/vault/add/", form)

    errors = answer.context["adminform"].form.non_field_errors()
    assert "Vaults are locked" in errors[0]
    assert answer.context["adminform"].form["description"].value() == "kept"
