"""Mails in the user's language."""

import re
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest

from languages.choice import LANGUAGES, Wishes
from service.bookkeeping.audit import SYSTEM
from service.bookkeeping.exports import ExportRequest
from service.export_spec import ExportSpec
from service.formats import Format
from service.mails.messages import compose
from service.mails.samples import SAMPLES
from service.mails.sending import send_due_mails
from service.resources import Resources
from service.settings import Settings
from tests.languages.profiles import create_user_of, with_locales
from tests.languages.pseudo import LONG, find_english, speaking
from tests.mails.test_messages import parts
from tests.support.exports import UNLIMITED
from tests.support.factories import Connection
from tests.support.mails import ADA, MESSAGE_ID, create_mailer
from tests.support.smtp import SmtpServer

SUBJECTS = {
    "de": "Ihr Datenexport ist fehlgeschlagen",
    "fr": "L\u2019export de vos données a échoué",
    "it": "L\u2019esportazione dei Suoi dati non è riuscita",
    "pl": "Eksport Państwa danych nie powiódł się",
}
# Names that are the same in all languages.
UNTRANSLATED = {"CSV", "JSON", "ZIP", "SHA", "MB", "byte"}
OWN = {"url", "sha256", "job_id", "reason", "selection"}
TAGS = re.compile(r"<style>.*?</style>|<[^>]+>", re.DOTALL)
Facts: TypeAlias = Mapping[str, object]


@pytest.fixture
def settings(settings: Settings, smtp: SmtpServer, tmp_path: Path) -> Settings:
    return msgspec.structs.replace(with_locales(settings, tmp_path / "datasets"), smtp_url=smtp.url, language="it")


@pytest.mark.parametrize(
    ("wishes", "locale", "language"),
    [
        (Wishes("fr", "de"), "pl_PL", "fr"),
        (Wishes(None, "de"), "pl_PL", "pl"),
        (Wishes(None, "de"), "Ada", "de"),
        (Wishes(), "", "it"),
    ],
)
async def test_the_language_is_chosen_when_a_mail_is_sent(  # noqa: PLR0913, PLR0917 (fixtures and parameters)
    resources: Resources, database: Connection, smtp: SmtpServer, wishes: Wishes, locale: str, language: str
) -> None:
    user_id = await create_user_of(database, locale)
    request = ExportRequest(ExportSpec(user_id, Format.CSV), actor=SYSTEM, wishes=wishes)
    admitted = await resources.exports.admit(database, request, UNLIMITED, queued=False, estimated_records=1)
    assert admitted.export
    await resources.exports.fail(database, admitted.export, message="It broke", cause="DocumentError")
    await resources.notifications.create(database, job_id=admitted.export.id, kind="failed")

    await send_due_mails(resources, limit=1)

    (mail,) = smtp.mails
    assert mail.message["Subject"] == SUBJECTS[language]
    assert mail.message["Content-Language"] == language
    html = mail.message.get_body(("html",))
    assert html
    assert f'<html lang="{language}" dir="ltr">' in html.get_content()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", SAMPLES)
def test_both_parts_tell_the_same(kind: str, language: str) -> None:
    sender, facts = create_mailer("smtp://localhost").sender, SAMPLES[kind][0]
    mail = compose(kind, sender=sender, recipient=ADA, message_id=MESSAGE_ID, facts=facts, language=language)
    text, html = parts(mail)
    shown = unescape(TAGS.sub("", html))
    assert mail["Subject"] in shown
    lines = [line.partition(". SHA-256")[0] for line in text.splitlines() if line != facts.get("url")]
    assert not [line for line in lines if line not in shown]


@pytest.mark.parametrize("facts", SAMPLES["ready"])
def test_no_english_is_left_in_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: Facts) -> None:
    with speaking(tmp_path, monkeypatch, LONG):
        assert_translated("ready", facts)


@pytest.mark.parametrize("facts", SAMPLES["failed"])
def test_no_english_is_left_in_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: Facts) -> None:
    with speaking(tmp_path, monkeypatch, LONG):
        assert_translated("failed", facts)


def assert_translated(kind: str, facts: Facts) -> None:
    sender = create_mailer("smtp://localhost").sender
    mail = compose(kind, sender=sender, recipient=ADA, message_id=MESSAGE_ID, facts=facts, language=LONG.tag)
    text, html = parts(mail)
    shown = "\n".join([mail["Subject"], text, unescape(TAGS.sub(" ", html))])
    for name in OWN & facts.keys():
        shown = shown.replace(str(facts[name]), "")
    assert set(find_english(shown)) <= UNTRANSLATED
