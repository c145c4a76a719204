"""`export_vault`: a vault as lines of a .env file, which the bulk edit takes back."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from tests.support.audit import audit_records
from vaults.dotenv import format_line, parse_env
from vaults.operations import create_vault, set_entry

VALUES = {"TOKEN": 'it\'s "quoted" $HOME \\ #1', "PEM": "-----BEGIN KEY-----\r\nabc\n-----END KEY-----\n"}


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1))
def test_a_line_is_read_as_the_value_that_was_written(value: str) -> None:
    assert parse_env(format_line("KEY", value)).values == {"KEY": value}


@pytest.mark.usefixtures("configuration")
def test_a_vault_is_written_to_standard_output_and_recorded() -> None:
    create_vault(name="api-keys")
    for key, value in VALUES.items():
        set_entry(vault="api-keys", key=key, value=value)
    output = StringIO()

    call_command("export_vault", "api-keys", stdout=output)

    assert parse_env(output.getvalue()).values == VALUES
    record = audit_records().get(action="vault.exported")
    assert (record.object_name, "BEGIN KEY" in record.changes) == ("api-keys", False)


@pytest.mark.usefixtures("configuration")
def test_an_unknown_vault_is_an_error() -> None:
    with pytest.raises(CommandError, match="No vault 'nope'"):
        call_command("export_vault", "nope")
