"""The maintenance duty of the configuration."""

from runqy.broker.broker import Broker
from runqy.configuration import snapshot
from runqy.maintenance.base import register


@register
class ConfigurationPolling:
    """Have threads read newer configuration, so that no duty waits for a store that hangs."""

    name = "configuration_polling"
    interval_s = 60.0

    def run_tick(self, broker: Broker) -> None:
        snapshot.start_polling()
