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
from service.branding.brand import LOGO_ID, PLAIN, Brand
from service.branding.logo import Logo
from service.mails.own_templates import MailTexts, OwnTemplates

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
    brand: Brand = PLAIN,
    own: OwnTemplates | None = None,
) -> EmailMessage:
    """A mail of `kind` (a key of SUBJECTS) to one normalized address; `facts` and `brand` are the variables of its
    templates, which are the operator's `own` where there are any.
    """
    address = with_ascii_domain(recipient)
    mail = EmailMessage(policy=POLICY.clone(utf8=not address.isascii()))
    mail["From"] = sender
    mail["To"] = address
    words = find_words(language)
    texts = (own and own.render(kind, language, brand, facts)) or _render(kind, words, brand, facts)
    mail["Subject"] = texts.subject or _subject(kind, words, brand)
    mail["Date"] = datetime.now(UTC)
    mail["Message-ID"] = message_id
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: suppresses out-of-office replies
    mail["X-Auto-Response-Suppress"] = "All"  # the same for Exchange
    mail.set_content(texts.text)
    mail.add_alternative(texts.html, subtype="html")
    if brand.logo and brand.mail_logo and brand.mail_logo in texts.html:
        _attach_logo(mail, brand.logo)
    mail["Content-Language"] = language  # a text that is set later would take it for its own
    return mail


def _subject(kind: str, words: Words, brand: Brand) -> str:
    subject = words.gettext(SUBJECTS[kind])
    return f"{brand.name}: {subject}" if brand.name else subject


def _render(kind: str, words: Words, brand: Brand, facts: Mapping[str, object]) -> MailTexts:
    text, html = (
        _templates(words).get_template(f"{kind}{suffix}").render(facts, brand=brand) for suffix in (".txt", ".html")
    )
    return MailTexts("", text, html)


def _attach_logo(mail: EmailMessage, logo: Logo) -> None:
    """Beside the HTML, so that no mail program loads it from a server."""
    html = mail.get_body(("html",))
    assert html is not None  # it was just added
    main, _, sub = logo.media_type.partition("/")
    html.add_related(logo.content, main, sub, cid=f"<{LOGO_ID}>", disposition="inline", filename=logo.file_name)


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
