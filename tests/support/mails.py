"""Sample mails: their facts, sender and recipient."""

from datetime import UTC, datetime
from email.message import EmailMessage
from uuid import UUID

from service.backends.smtp import Mailer
from service.mails.messages import compose

MAIL_FROM = "Carryout <exports@example.com>"
MESSAGE_ID = "<7d9b8d62-0d5a-4d27-8f07-2a9f0ed7a1c4@example.com>"
ADA = "ada@example.org"
READY: dict[str, object] = {
    "created_at": datetime(2026, 3, 1, 9, 30, tzinfo=UTC),
    "expires_at": datetime(2026, 3, 8, 9, 31, 59, tzinfo=UTC),
    "format": "csv",
    "selection": "",
    "reason": None,
    "records": 54_321,
    "size_bytes": 12_345_678,
    "sha256": "5f" * 32,
    "files_included": 0,
    "files_missing": 0,
    "url": f"https://exports.example.com/api/export/{UUID(int=1)}/download?expires=1772962319&signature={'s' * 43}",
}
FAILED: dict[str, object] = {
    "created_at": READY["created_at"],
    "format": "json",
    "selection": "",
    "reason": None,
    "job_id": UUID(int=1),
    "error_message": "The data could not be read",
}


def create_mailer(url: str, mail_from: str = MAIL_FROM, *, token_file: str = "") -> Mailer:
    return Mailer(url, mail_from, ehlo_name="exports.example.com", token_file=token_file)


def ready_mail(mailer: Mailer, recipient: str = ADA) -> EmailMessage:
    return compose("ready", sender=mailer.sender, recipient=recipient, message_id=MESSAGE_ID, facts=READY)
