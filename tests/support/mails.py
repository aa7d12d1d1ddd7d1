"""Sample mails: their facts, sender and recipient."""

from email.message import EmailMessage

from service.backends.smtp import Mailer
from service.mails.messages import compose
from service.mails.samples import READY

MAIL_FROM = "Carryout <exports@example.com>"
MESSAGE_ID = "<7d9b8d62-0d5a-4d27-8f07-2a9f0ed7a1c4@example.com>"
ADA = "ada@example.org"


def create_mailer(url: str, mail_from: str = MAIL_FROM, *, token_file: str = "") -> Mailer:
    return Mailer(url, mail_from, ehlo_name="exports.example.com", token_file=token_file)


def ready_mail(mailer: Mailer, recipient: str = ADA) -> EmailMessage:
    return compose("ready", sender=mailer.sender, recipient=recipient, message_id=MESSAGE_ID, facts=READY)
