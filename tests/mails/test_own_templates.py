"""The operator's own mails: what is refused at the start, in one sentence, and what users get."""

from collections.abc import Mapping
from email.message import EmailMessage
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.branding.brand import Brand, Support
from service.branding.logo import Logo
from service.errors import ConfigurationError
from service.mails.messages import compose
from service.mails.own_templates import OwnTemplates, find_own_templates
from service.mails.samples import FAILED, READY, REASON
from tests.branding.test_brand import png
from tests.mails.test_messages import parts
from tests.support.mails import ADA, MESSAGE_ID, create_mailer

TEXT = "Subject: Your files, {{ brand.name }}\n\nHere: {{ url }}\n{{ expires_at | date }}\n"
HTML = '{% extends "_frame.html" %}{% block body %}<a href="{{ url }}">{{ records | number }}</a>{% endblock %}'
FRAME = "<h1>{{ brand.name }}</h1>{% block body %}{% endblock %}{% if reason %}{{ reason }}{% endif %}\n"
GOOD = {"ready.txt": TEXT, "ready.html": HTML, "_frame.html": FRAME}
ACME = Brand(name="Acme", support=Support("help@acme.example", "mailto:help@acme.example"))


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def load(folder: Path, files: Mapping[str, str]) -> OwnTemplates:
    templates = find_own_templates(str(write(folder, files)), ACME)
    assert templates is not None
    return templates


def mail_of(
    own: OwnTemplates | None, kind: str = "ready", *, language: str = "en", brand: Brand = ACME, **more: object
) -> EmailMessage:
    facts = (READY if kind == "ready" else FAILED) | more
    return compose(
        kind,
        sender=create_mailer("smtp://localhost").sender,
        recipient=ADA,
        message_id=MESSAGE_ID,
        facts=facts,
        language=language,
        brand=brand,
        own=own,
    )


def test_without_a_folder_the_mails_are_carryouts() -> None:
    assert find_own_templates("", ACME) is None


def test_a_mail_in_the_operators_words(tmp_path: Path) -> None:
    mail = mail_of(load(tmp_path, GOOD))
    text, html = parts(mail)
    assert mail["Subject"] == "Your files, Acme"
    assert text == f"Here: {READY['url']}\n8 March 2026\n"
    assert html.startswith("<h1>Acme</h1>")
    assert ">54,321</a>" in html


def test_kinds_and_languages_without_templates_stay_as_they_are(tmp_path: Path) -> None:
    own = load(tmp_path, {f"de/{name}": text for name, text in GOOD.items()})
    assert parts(mail_of(own, language="de"))[0].endswith("8. März 2026\n")
    assert mail_of(own, "failed", language="de")["Subject"] == "Acme: Ihr Datenexport ist fehlgeschlagen"
    assert mail_of(own)["Subject"] == "Acme: Your data export is ready"


def test_a_language_goes_before_all(tmp_path: Path) -> None:
    own = load(tmp_path, GOOD | {"fr/ready.txt": "Voici : {{ url }}\n", "fr/ready.html": '<a href="{{ url }}">Oui</a>'})
    text, html = parts(mail_of(own, language="fr"))
    assert (text.split(" ")[0], ">Oui<" in html) == ("Voici", True)
    assert mail_of(own, language="it")["Subject"] == "Your files, Acme"


def test_a_mail_without_a_subject_has_carryouts(tmp_path: Path) -> None:
    own = load(tmp_path, GOOD | {"ready.txt": "{{ url }}\n"})
    assert mail_of(own)["Subject"] == "Acme: Your data export is ready"


def test_html_shows_text_as_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>{{ 7*7 }}"
    mail = mail_of(load(tmp_path, GOOD), reason=hostile, brand=ACME._replace(name="<Acme>"))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7*7 }}" in parts(mail)[1]
    assert "<h1>&lt;Acme&gt;</h1>" in parts(mail)[1]


def test_a_line_break_in_a_fact_adds_no_header(tmp_path: Path) -> None:
    own = load(tmp_path, GOOD | {"ready.txt": "Subject: {{ reason or 'none' }}\n\n{{ url }}\n"})
    mail = mail_of(own, reason="yes\nBcc: eve@evil.example\n\nhello")
    assert mail["Subject"] == "yes"
    assert mail["Bcc"] is None


def test_a_logo_is_in_the_mail(tmp_path: Path) -> None:
    brand = ACME._replace(logo=Logo("logo.png", "image/png", png()))
    own = load(tmp_path, GOOD | {"_frame.html": '<img src="{{ brand.mail_logo }}">{% block body %}{% endblock %}'})
    for mail in (mail_of(own, brand=brand), mail_of(None, brand=brand)):
        (picture,) = [part for part in mail.walk() if part.get_content_type() == "image/png"]
        assert picture.get_content() == png()
        assert f'src="cid:{picture["Content-ID"][1:-1]}"' in parts(mail)[1]
    unused = load(tmp_path / "other", GOOD)
    assert [part.get_content_type() for part in mail_of(unused, brand=brand).walk()] == [
        "multipart/alternative",
        "text/plain",
        "text/html",
    ]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"ready.txt": "{{ url }} {{ usr }}"}, "ready.txt, line 1: 'usr' is undefined"),
        (
            {"ready.html": HTML + "\n\n{% if records > 10**9 %}{{ typo }}{% endif %}"},
            "ready.html, line 3: 'typo' is undefined",
        ),
        ({"ready.txt": "{{ url }}\n{% if reason %}"}, "ready.txt, line 2: Unexpected end of template."),
        ({"ready.txt": "{{ url }}\n{{ url | shout }}"}, "ready.txt, line 2: No filter named 'shout'."),
        ({"ready.txt": "{{ url }}\n{{ brand.colour }}"}, "ready.txt, line 2: "),
        ({"ready.txt": "{{ url }}\n{{ records / 0 }}"}, "ready.txt, line 2: ZeroDivisionError: "),
        ({"ready.txt": "{{ url }}\n{% include '_none.txt' %}"}, "ready.txt, line 2: the template _none.txt is missing"),
        ({"_frame.html": "<p>\n{{ lost }}{% block body %}{% endblock %}"}, "_frame.html, line 2: 'lost' is undefined"),
        ({"ready.txt": "Here you are"}, "ready.txt (de) must contain {{ url }}, the link to the file"),
        ({"ready.html": "Here you are"}, "ready.html (de) must contain {{ url }}, the link to the file"),
        ({"ready.txt": "{% if not reason %}{{ url }}{% endif %}"}, "ready.txt (de) must contain {{ url }}"),
        (
            {"_frame.html": "{{ reason | safe }}{% block body %}{% endblock %}"},
            "ready.html (de) must not show `reason`",
        ),
        ({"reday.txt": "x"}, "reday.txt is none of failed.html, failed.txt, ready.html, ready.txt"),
        ({"fr/reday.txt": "x"}, "fr/reday.txt is none of failed.html, "),
        ({"xx/ready.txt": "x"}, "xx is none of failed.html, "),
        ({"failed.txt": "x"}, "failed.txt needs its other half, text or HTML, beside it"),
        ({"de/ready.html": "{{ url }}"}, "de/ready.html needs its other half, text or HTML, beside it"),
        ({"de/ready.txt": "{{ url", "de/ready.html": "{{ url }}"}, "de/ready.txt, line 1: "),
    ],
)
def test_a_broken_one_is_named(tmp_path: Path, files: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(tmp_path, GOOD | files)
    assert str(raised.value).startswith(f"CARRYOUT_TEMPLATES_DIR: {sentence}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "escape",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ created_at.__class__ }}",
        "{{ brand.__init__.__globals__ }}",
        "{{ brand.style.__func__ }}",
        "{{ '%s'.format.__self__ }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(brand) }}",
        "{{ _.__globals__ }}",
        "{{ self._TemplateReference__context.parent }}",
        "{{ cycler }}",
        "{{ lipsum() }}",
        "{{ settings }}",
        "{{ config }}",
        "{{ environ }}",
        "{% include '../secret.txt' %}",
        "{% include '/etc/hostname' %}",
        "{% import 'os' as os %}{{ os }}",
        "{{ [].append(1) }}",
    ],
)
def test_a_template_sees_its_facts_alone(tmp_path: Path, escape: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    with pytest.raises(ConfigurationError, match=r"^CARRYOUT_TEMPLATES_DIR: .*ready\.txt, line 2: "):
        load(tmp_path / "templates", GOOD | {"ready.txt": "{{ url }}\n" + escape})


def test_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^CARRYOUT_TEMPLATES_DIR: .*none is not a folder$"):
        find_own_templates(str(tmp_path / "none"), ACME)


def test_not_utf_8(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    (tmp_path / "ready.txt").write_bytes("{{ url }} für Sie".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"^CARRYOUT_TEMPLATES_DIR: .*not UTF-8$"):
        find_own_templates(str(tmp_path), ACME)


def test_files_of_a_mounted_configmap(tmp_path: Path) -> None:
    version = write(tmp_path / "..2026_03_01", GOOD)
    (tmp_path / "..data").symlink_to(version.name)
    for name in GOOD:
        (tmp_path / name).symlink_to(f"..data/{name}")
    own = find_own_templates(str(tmp_path), ACME)
    assert mail_of(own)["Subject"] == "Your files, Acme"


def test_one_that_fails_later_costs_no_mail(tmp_path: Path) -> None:
    """The samples can't have every value: the mail goes out in Carryout's words, and the log says where it failed."""
    fails = "{{ url }}\n{% if records == 7 %}{{ records / 0 }}{% endif %}\n"
    own = load(tmp_path, GOOD | {"ready.txt": fails})
    with capture_logs() as logs:
        mail = mail_of(own, records=7, reason=REASON)
    assert mail["Subject"] == "Acme: Your data export is ready"
    (logged,) = logs
    assert (logged["event"], logged["place"], logged["error"]) == (
        "own_template_failed",
        "ready.txt, line 2",
        "ZeroDivisionError",
    )
    assert REASON not in str(logged)
