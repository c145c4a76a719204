"""Serializers of what makes a release, with examples for the schema."""

from typing import Any

from rest_framework import serializers

from runqy.api.schema import request_example, response_example
from runqy.api.serializers import NamesField, PublishedField, StrictSerializer, StringField


@response_example(
    {
        "message": "redeployment requested",
        "queue": "inference",
        "workers": ["worker-abc123"],
        "published": True,
        "release": 7,
    }
)
class QueueRedeployedSerializer(serializers.Serializer[Any]):
    """A queue whose workers change to another release."""

    message = serializers.CharField()
    queue = serializers.CharField(help_text="The whole queue, even if a sub-queue was named")
    workers = NamesField(
        allow_null=True,
        help_text="Ids of the workers that will deploy it; null: Redis is unavailable",
    )
    published = PublishedField()
    release = serializers.IntegerField(help_text="Its number")


@request_example({"commit": "9f2c41d7a86b35e0c4d18f7a2b6e93055d0c1a4f"})
class RedeploySerializer(StrictSerializer):
    """What to release."""

    commit = StringField(
        required=False,
        default="",
        allow_blank=True,
        max_length=250,
        help_text="All digits of a commit that a branch or tag contains, or a tag; default: the newest commit of the "
        "branch",
    )


@request_example(
    {
        "ref": "refs/heads/main",
        "after": "9f2c41d7a86b35e0c4d18f7a2b6e93055d0c1a4f",
        "repository": {"clone_url": "https://github.com/example/repo.git"},
        "pusher": {"name": "ada"},
    }
)
class PushSerializer(serializers.Serializer[Any]):
    """The members of a push that are read. GitLab has `project` and `user_username`."""

    ref = serializers.CharField(help_text="`refs/heads/` or `refs/tags/` and the queue's branch")
    after = serializers.CharField(help_text="The newest commit; only zeros: the branch was deleted")
    repository = serializers.DictField(help_text="Its URLs, one of which must be the queue's git_url")
    pusher = serializers.DictField(required=False, help_text="Whose `login` or `name` the release and the audit have")


class PushFormSerializer(serializers.Serializer[Any]):
    """A push as a form."""

    payload = serializers.CharField(help_text="The push as JSON")


@response_example({"message": "release requested", "queue": "inference", "release": 8})
class PushReceivedSerializer(serializers.Serializer[Any]):
    """What became of a push."""

    message = serializers.CharField(help_text="`release requested`, or why nothing is released")
    queue = serializers.CharField()
    release = serializers.IntegerField(allow_null=True, help_text="The number of the new release")


@response_example({"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})
class GitHookSecretSerializer(serializers.Serializer[Any]):
    """The secret of a git host's webhook."""

    secret = serializers.CharField()
