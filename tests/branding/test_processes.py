"""An operator's own name and mails from settings alone: a real API and worker, and what users then see."""

import email
import email.policy
import html
import io
import zipfile
from collections.abc import AsyncIterator, Mapping
from email.message import EmailMessage
from pathlib import Path

import httpx
import pytest

from devstack.ports import keep_port
from devstack.stack import Stack
from service.branding.brand import PICTURE_POLICY
from service.exports.files import download_url
from service.formats import Format
from tests.branding.test_brand import PLAIN_SVG, png
from tests.conftest import PUBLIC_URL
from tests.faults.world import World, open_world
from tests.sql.databases import database_environ
from tests.support.processes import run
from tests.support.waiting import until

READY_TEXT = """Subject: Your files from {{ brand.name }}

Moin!

{{ url }}

It works until {{ expires_at | moment }}. {{ brand.support.text }}
"""
READY_HTML = """{% extends "_frame.html" %}
{% block body %}<p><a href="{{ url }}">Moin, your {{ records | number }} records</a></p>{% endblock %}
"""
FRAME = """<!doctype html><title>{{ brand.name }}</title>
<img src="{{ brand.mail_logo }}" alt="{{ brand.name }}">{% block body %}{% endblock %}
"""
TEMPLATES = {"ready.txt": READY_TEXT, "ready.html": READY_HTML, "_frame.html": FRAME}


def brand_environ(folder: Path, *, logo: bytes = png(), **templates: str) -> dict[str, str]:
    """The settings of an operator called Acme, with their files in `folder`."""
    (folder / "logo").write_bytes(logo)
    (folder / "templates").mkdir()
    for name, text in (TEMPLATES | templates).items():
        (folder / "templates" / name).write_text(text)
    return {
        "CARRYOUT_PRODUCT_NAME": "Acme & Sons",
        "CARRYOUT_SUPPORT_ADDRESS": "help@acme.example",
        "CARRYOUT_ACCENT_COLOR": "#1a4fa0",
        "CARRYOUT_LOGO_FILE": str(folder / "logo"),
        "CARRYOUT_TEMPLATES_DIR": str(folder / "templates"),
    }


@pytest.fixture(scope="module")
async def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("acme")
    async with open_world(stack, folder, **brand_environ(folder)) as world:
        await world.start_worker()
        yield world


@pytest.fixture(scope="module")
async def api(world: World) -> AsyncIterator[httpx.AsyncClient]:
    port = keep_port(world.folder / "port")
    await world.start_api(port)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

        async def answers() -> bool:
            try:
                return (await client.get("/livez")).is_success
            except httpx.TransportError:
                return False

        await until(answers)
        yield client


async def mail_with(world: World, text: str) -> EmailMessage:
    """The mail whose text contains `text`, when it has arrived."""
    found: list[EmailMessage] = []

    async def arrived() -> bool:
        for path in world.stack.mail_dir.glob("*.eml"):
            mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            body = mail.get_body(("plain",))
            if body and text in body.get_content():
                found.append(mail)
        return bool(found)

    await world.until(arrived, "the mail")
    return found[0]


def body_of(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


async def test_the_page_and_error_pages(api: httpx.AsyncClient) -> None:
    page = await api.get("/")
    assert "<title>Your data · Acme &amp; Sons</title>" in page.text
    assert '<img src="assets/logo.png" alt="Acme &amp; Sons">' in page.text
    assert '<a href="mailto:help@acme.example">help@acme.example</a>' in page.text
    error = await api.get("/a/nowhere", headers={"Accept": "text/html", "Accept-Language": "de"})
    assert error.status_code == 404
    assert '<img src="../assets/logo.png" alt="Acme &amp; Sons">' in error.text
    assert 'Hilfe: <a href="mailto:help@acme.example">' in error.text


async def test_the_page_s_files(api: httpx.AsyncClient) -> None:
    logo = await api.get("/assets/logo.png")
    assert (logo.content, logo.headers["content-type"]) == (png(), "image/png")
    assert logo.headers["content-security-policy"] == PICTURE_POLICY
    assert logo.headers["x-content-type-options"] == "nosniff"
    assert (await api.get("/assets/logo.svg")).status_code == 404
    assert "--accent: #1a4fa0;" in (await api.get("/assets/page.css")).text
    assert 'fill="#1a4fa0"' in (await api.get("/assets/icon.svg")).text


async def test_the_mail_is_the_operator_s(world: World) -> None:
    export = await world.ended(await world.ask(await world.create_user(records=1_200)))
    url = download_url(world.resources, export)
    assert url
    mail = await mail_with(world, url)
    assert mail["Subject"] == "Your files from Acme & Sons"
    text, page = body_of(mail, "plain"), body_of(mail, "html")
    assert text.startswith(f"Moin!\n\n{url}\n\nIt works until ")
    assert text.endswith(" UTC. help@acme.example\n")
    assert f'<a href="{html.escape(url)}">Moin, your 1,200 records</a>' in page
    (picture,) = [part for part in mail.walk() if part.get_content_type() == "image/png"]
    assert f'src="cid:{picture["Content-ID"][1:-1]}"' in page
    assert picture.get_content() == png()


async def test_the_package(world: World, api: httpx.AsyncClient) -> None:
    export = await world.ended(await world.ask(await world.create_user(records=3), Format.ZIP))
    url = download_url(world.resources, export)
    assert url
    path = url.removeprefix(world.resources.settings.public_url)
    content = (await api.get(path, follow_redirects=True)).content
    index = zipfile.ZipFile(io.BytesIO(content)).read("index.html").decode()
    assert "<title>Your data · Acme &amp; Sons</title>" in index
    assert '<img src="data:image/png;base64,' in index
    assert "img-src 'self' file: data:" in html.unescape(index)
    assert "--accent: #1a4fa0;" in index
    assert '<a href="mailto:help@acme.example">help@acme.example</a>' in index


BROKEN: Mapping[str, tuple[str, str]] = {
    "variable": ("{{ url }}\n{{ usr }}", "CARRYOUT_TEMPLATES_DIR: ready.txt, line 2: 'usr' is undefined"),
    "syntax": (
        "{{ url }}\n\n{% if %}",
        "CARRYOUT_TEMPLATES_DIR: ready.txt, line 3: Expected an expression, got 'end of",
    ),
    "link": ("Moin!", "CARRYOUT_TEMPLATES_DIR: ready.txt (de) must contain {{ url }}, the link to the file"),
}


@pytest.mark.parametrize("process", ["serve", "worker"])
@pytest.mark.parametrize("fault", BROKEN)
async def test_a_broken_one_stops_the_start(
    stack: Stack, database_url: str, tmp_path: Path, process: str, fault: str
) -> None:
    text, sentence = BROKEN[fault]
    own = brand_environ(tmp_path, logo=PLAIN_SVG.encode(), **{"ready.txt": text})
    urls = database_environ(stack, database_url) | {"CARRYOUT_PUBLIC_URL": PUBLIC_URL}
    ended = await run(stack.environ | urls | own, process)
    assert ended.status == 2
    (line,) = ended.err.splitlines()
    assert line.startswith(f"carryout: {sentence}")
