"""Packages in the user's language."""

import re
from pathlib import Path

import pytest

from service.backends.database import Pool
from service.documents.datasets import Dataset
from service.documents.package.contents import package_chunks
from tests.documents.package.reading import unpack
from tests.languages.pseudo import LONG, find_english, speaking
from tests.support.documents import open_package, read_chunks
from tests.support.factories import Connection, create_user_with

TITLES = {"de": "Ihre Daten", "en": "Your data", "fr": "Vos données", "pl": "Państwa dane"}
SHOWN = re.compile(r"<style>.*?</style>|<tbody>.*?</tbody>|<[^>]+>", re.DOTALL)


@pytest.mark.parametrize("language", TITLES)
async def test_pages_speak_it_and_data_does_not(
    pool: Pool, datasets: tuple[Dataset, ...], database: Connection, language: str
) -> None:
    async with open_package(pool, datasets, await create_user_with(database, 3)) as document:
        files = unpack(await read_chunks(package_chunks(document, language=language)))
    pages = {name: content.decode() for name, content in files.items() if name.endswith(".html")}
    assert all(f'<html lang="{language}" dir="ltr">' in page for page in pages.values())
    assert f"<h1>{TITLES[language]}</h1>" in pages["index.html"]
    assert files["datapackage.json"].startswith(b'{"$schema":')


async def test_no_english_is_left(
    pool: Pool, datasets: tuple[Dataset, ...], database: Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """But names of columns, and what the datasets' files say."""
    async with open_package(pool, datasets, await create_user_with(database, 1_200)) as document:
        with speaking(tmp_path, monkeypatch, LONG):
            files = unpack(await read_chunks(package_chunks(document, language=LONG.tag)))
    facts = [text for dataset in datasets for text in _texts(dataset)]
    for name, content in files.items():
        if not name.endswith(".html"):
            continue
        shown = SHOWN.sub(" ", content.decode()).replace("&#39;", "'")
        for text in sorted(facts, key=len, reverse=True):
            shown = shown.replace(text, "")
        assert set(find_english(shown)) <= {"CSV"}, name


def _texts(dataset: Dataset) -> list[str]:
    facts = dataset.facts
    own = [facts.title, facts.about, facts.purpose, facts.kept, facts.recipients, facts.source]
    left_out = [f"{name}: {why}" for name, why in facts.left_out.items()]
    return [text for text in (*own, *left_out, *(column.name for column in dataset.columns)) if text]
