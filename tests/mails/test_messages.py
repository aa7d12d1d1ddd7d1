"""The text, headers and HTML of mails."""

from collections.abc import Mapping
from datetime import timedelta
from email.message import EmailMessage

import pytest

from service.backends.smtp import Mailer
from service.mails.messages import compose
from service.mails.samples import FAILED, READY
from tests.support.mails import ADA, MAIL_FROM, MESSAGE_ID, create_mailer, ready_mail


@pytest.fixture
def mailer() -> Mailer:
    return create_mailer("smtp://localhost")


def parts(message: EmailMessage) -> tuple[str, str]:
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text
    assert html
    return text.get_content(), html.get_content()


def test_both_parts_tell_the_same(mailer: Mailer) -> None:
    text, html = parts(ready_mail(mailer))

    for fact in ("8 March 2026 at 09:31", "UTC", "CSV", "54,321", "12.3 MB", "5f" * 32, "This wasn't you?"):
        assert fact in text
        assert fact.replace("'", "&#39;") in html or fact in html
    assert f"\n{READY['url']}\n" in text
    assert f'href="{READY["url"]}"'.replace("&", "&amp;") in html


def test_headers(mailer: Mailer) -> None:
    message = ready_mail(mailer)

    assert message["From"] == MAIL_FROM
    assert message["To"] == ADA
    assert message["Subject"] == "Your data export is ready"
    assert message["Message-ID"] == MESSAGE_ID
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["X-Auto-Response-Suppress"] == "All"
    assert message["Date"].datetime.utcoffset() == timedelta(0)


def test_links_stay_in_one_piece(mailer: Mailer) -> None:
    assert str(READY["url"]).encode() in ready_mail(mailer).as_bytes()


def test_html_shows_hostile_text_as_text(mailer: Mailer) -> None:
    hostile = "<script>alert(1)</script> \" onmouseover=' & {{ 7*7 }}"
    message = compose(
        "failed", sender=mailer.sender, recipient=ADA, message_id=MESSAGE_ID, facts=FAILED | {"error_message": hostile}
    )

    text, html = parts(message)

    assert hostile in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &#34; onmouseover=&#39; &amp; {{ 7*7 }}" in html
    assert "<script" not in html


@pytest.mark.parametrize(("kind", "facts"), [("ready", READY), ("failed", FAILED)])
def test_nothing_is_fetched_to_show_a_mail(mailer: Mailer, kind: str, facts: Mapping[str, object]) -> None:
    _, html = parts(compose(kind, sender=mailer.sender, recipient=ADA, message_id=MESSAGE_ID, facts=facts))

    assert not [word for word in ("<img", "src=", "url(", "@import", "<link", "<script") if word in html]


@pytest.mark.parametrize(("kind", "facts"), [("ready", READY), ("failed", FAILED)])
def test_says_that_support_has_asked_and_why(mailer: Mailer, kind: str, facts: Mapping[str, object]) -> None:
    reason = "Your letter of 1 March <b>Ada & Co</b>"
    message = compose(
        kind, sender=mailer.sender, recipient=ADA, message_id=MESSAGE_ID, facts={**facts, "reason": reason}
    )
    text, html = parts(message)
    assert f"\n{reason}\n" in text
    assert ">Your letter of 1 March &lt;b&gt;Ada &amp; Co&lt;/b&gt;</blockquote>" in html
    for part in (text, html):
        assert "Support asked for a copy of your data for you on 1 March 2026, because:" in part
        assert "You know nothing of this?" in part
        assert "You asked for" not in part
        assert "This wasn't you?" not in part


def test_says_which_part_was_asked_for(mailer: Mailer) -> None:
    facts = READY | {"selection": "sections activity, from 2025-01-01"}
    message = compose("ready", sender=mailer.sender, recipient=ADA, message_id=MESSAGE_ID, facts=facts)
    for part in parts(message):
        assert "It holds a part of your data, as you asked: sections activity, from 2025-01-01 (UTC)." in part
    assert "a part of your data" not in parts(ready_mail(mailer))[0]
