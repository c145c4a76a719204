"""Template tags for examples with a queue that exists. Templates load them of apps that may not import queues."""

from collections.abc import Collection

from django import template

from queues.definitions import QueueDefinition
from queues.payload_schema import example_curl, example_payload, example_queue_name
from queues.queries import get_fresh_catalog
from runqy.errors import ConfigurationUnavailable

register = template.Library()


@register.simple_tag
def example_queue(allowed_queues: Collection[str] = ()) -> QueueDefinition | None:
    """Return the first enabled queue, among `allowed_queues` if there are any; None if there is no such queue."""
    try:
        definitions = get_fresh_catalog(max_age_s=0).definitions
    except ConfigurationUnavailable:
        return None
    usable = (
        queue for queue in definitions if queue.is_enabled and (not allowed_queues or queue.name in allowed_queues)
    )
    return next(usable, None)


@register.simple_tag
def enqueue_command(queue: QueueDefinition, server_url: str) -> str:
    """Return the curl command that enqueues a task with an example of the queue's payload."""
    name = example_queue_name(queue.name, [sub.name for sub in queue.sub_queues])
    return example_curl(server_url, name, example_payload(queue.input))
