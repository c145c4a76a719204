"""The maintenance duty of personal API keys."""

from runqy.accounts.operations import end_personal_keys
from runqy.accounts.queries import list_keys_to_end
from runqy.broker.broker import Broker
from runqy.maintenance.base import DatabaseDuty, register


@register
class PersonalKeyEnder(DatabaseDuty):
    """Revoke the personal keys of users who lost their rights by other ways than the admin, such as a script."""

    name = "personal_key_ender"
    interval_s = 30.0

    def run(self, broker: Broker) -> None:
        if list_keys_to_end():
            end_personal_keys()
