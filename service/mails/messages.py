"""The texts of mails: a pair of templates, text and HTML, for each kind."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from functools import cache
from pathlib import Path

import jinja2

from languages.choice import DEFAULT
from languages.templates import localize
from languages.words import Words, find_words, to_translate
from service.backends.mail_addresses import POLICY, with_ascii_domain

SUBJECTS = {"ready": to_translate("Your data export is ready"), "failed": to_translate("Your data export failed")}
TEMPLATES_DIR = Path(__file__).parent / "templates"


def compose(  # noqa: PLR0913 (the parts of a mail)
    kind: str,
    *,
    sender: Address,
    recipient: str,
    message_id: str,
    facts: Mapping[str, object],
    language: str = DEFAULT,
) -> EmailMessage:
    """A mail of `kind` (a key of SUBJECTS) to one normalized address; `facts` are the variables of its templates."""
    address = with_ascii_domain(recipient)
    mail = EmailMessage(policy=POLICY.clone(utf8=not address.isascii()))
    mail["From"] = sender
    mail["To"] = address
    words = find_words(language)
    mail["Subject"] = words.gettext(SUBJECTS[kind])
    mail["Date"] = datetime.now(UTC)
    mail["Message-ID"] = message_id
    mail["Content-Language"] = language
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: suppresses out-of-office replies
    mail["X-Auto-Response-Suppress"] = "All"  # the same for Exchange
    templates = _templates(words)
    mail.set_content(templates.get_template(f"{kind}.txt").render(facts))
    mail.add_alternative(templates.get_template(f"{kind}.html").render(facts), subtype="html")
    return mail


@cache
def _templates(words: Words) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES_DIR),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return localize(environment, words)
