"""Send a message as an e-mail, by the mail server of the settings."""

import asyncio
import smtplib
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from django.core.mail import EmailMessage, get_connection

from runqy.core.concurrency.threads import run_in_thread
from webhooks.transport import Outcome

_SUBJECT_MAX_LENGTH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    subject: str
    text: str
    recipients: Sequence[str]
    message_id: str
    """The same whenever it is sent, so that mail servers recognize a repetition."""


async def send_mail(mail: Mail, *, timeout_s: float) -> Outcome:
    """Send an e-mail once. A mail server that hangs holds a thread of its own until the timeout of its connection."""
    began_at, error = monotonic(), ""
    try:
        async with asyncio.timeout(timeout_s):
            await run_in_thread(lambda: _send(mail, timeout_s))
    except TimeoutError:
        error = f"The mail server did not accept it within {timeout_s:g} s."
    except smtplib.SMTPRecipientsRefused as refused:
        texts = [f"{name}: {code} {text.decode(errors='replace')}" for name, (code, text) in refused.recipients.items()]
        error = f"The mail server refused {'; '.join(texts)}"
    except (smtplib.SMTPException, OSError) as failed:
        error = f"The mail server: {failed}"
    return Outcome(error=error, duration_ms=round((monotonic() - began_at) * 1000))


def _send(mail: Mail, timeout_s: float) -> None:
    message = EmailMessage(
        mail.subject[:_SUBJECT_MAX_LENGTH],
        mail.text,
        to=list(mail.recipients),
        headers={"Message-ID": f"<{mail.message_id}@runqy>", "Auto-Submitted": "auto-generated"},
        connection=get_connection(timeout=timeout_s),
    )
    message.send()
