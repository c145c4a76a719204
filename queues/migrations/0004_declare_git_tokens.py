import json
import time
from collections import defaultdict

from django.db import migrations

from runqy.git.hosts import find_https_host
from vaults.entry_rules import parse_reference


def _declare_git_tokens(apps, schema_editor) -> None:
    """Let the entries that queues refer to as git tokens be sent to the hosts of these queues, and nowhere else.

    They stay variables too: a queue may have both their vault and the token.
    """
    hosts = defaultdict(set)
    for git_token, git_url in apps.get_model("queues", "Queue").objects.values_list("git_token", "git_url"):
        reference, host = parse_reference(git_token), find_https_host(git_url)
        if reference and host:
            hosts[reference.vault, reference.key].add(host)
    vaults = defaultdict(dict)
    for entry in apps.get_model("vaults", "VaultEntry").objects.select_related("vault"):
        if declared := hosts.get((entry.vault.name, entry.key)):
            entry.usage, entry.git_hosts = "both", sorted(declared)
            entry.save(update_fields=["usage", "git_hosts"])
        vaults[entry.vault.name][entry.key] = entry
    _store_documents(apps, vaults)


def _store_documents(apps, vaults) -> None:
    """Store what is to be published about the vaults; to workers it means what it did."""
    counters = apps.get_model("publication", "Revision").objects
    if not counters.exists():
        return
    counter = counters.get()
    counter.value = max(counter.value + 1, time.time_ns() // 1_000_000)
    counter.save()
    for document in apps.get_model("publication", "StoredDocument").objects.filter(kind="vault", body__isnull=False):
        body = json.loads(bytes(document.body))
        for published in body["entries"]:
            if entry := vaults[document.name].get(published["key"]):
                published |= {"usage": entry.usage, "git_hosts": entry.git_hosts}
        document.body = json.dumps(body, separators=(",", ":")).encode()
        document.revision = counter.value
        document.save(update_fields=["body", "revision"])


class Migration(migrations.Migration):
    dependencies = [
        ("queues", "0003_queue_removals"),
        ("vaults", "0005_git_hosts"),
        ("publication", "0003_rollouts"),
    ]

    operations = [migrations.RunPython(_declare_git_tokens, migrations.RunPython.noop)]
