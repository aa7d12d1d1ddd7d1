"""The texts of mails: a pair of templates, text and HTML, for each kind."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path

import jinja2

from service.backends.mail_addresses import POLICY, with_ascii_domain

SUBJECTS = {"ready": "Your data export is ready", "failed": "Your data export failed"}
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=jinja2.select_autoescape(["html"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def compose(
    kind: str, *, sender: Address, recipient: str, message_id: str, facts: Mapping[str, object]
) -> EmailMessage:
    """A mail of `kind` (a key of SUBJECTS) to one normalized address; `facts` are the variables of its templates."""
    address = with_ascii_domain(recipient)
    message = EmailMessage(policy=POLICY.clone(utf8=not address.isascii()))
    message["From"] = sender
    message["To"] = address
    message["Subject"] = SUBJECTS[kind]
    message["Date"] = datetime.now(UTC)
    message["Message-ID"] = message_id
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: suppresses out-of-office replies
    message["X-Auto-Response-Suppress"] = "All"  # the same for Exchange
    message.set_content(_render(f"{kind}.txt", facts))
    message.add_alternative(_render(f"{kind}.html", facts), subtype="html")
    return message


def _render(template: str, facts: Mapping[str, object]) -> str:
    return TEMPLATES.get_template(template).render(facts)
