"""Words, numbers, sizes and dates, as a language has them."""

import datetime as dt
import re
import subprocess
import sys

import pytest

from languages.choice import LANGUAGES
from languages.words import find_words

MOMENT = dt.datetime(2026, 3, 8, 10, 31, 59, tzinfo=dt.timezone(dt.timedelta(hours=1)))
WRITTEN = {
    "de": ("54.321", "12,3 MB", "999 Byte", "8. März 2026 um 09:31 Uhr (UTC)"),
    "en": ("54,321", "12.3 MB", "999 bytes", "8 March 2026 at 09:31 UTC"),
    "es": ("54.321", "12,3 MB", "999 bytes", "8 de marzo de 2026 a las 9:31 UTC"),
    "fr": ("54 321", "12,3 Mo", "999 octets", "8 mars 2026 à 09:31 UTC"),
    "it": ("54.321", "12,3 MB", "999 byte", "8 marzo 2026 alle ore 09:31 UTC"),
    "nl": ("54.321", "12,3 MB", "999 byte", "8 maart 2026 om 09:31 uur UTC"),
    "pl": ("54 321", "12,3 MB", "999 bajtów", "8 marca 2026 o godz. 09:31 UTC"),
    "pt": ("54 321", "12,3 MB", "999 bytes", "8 de março de 2026 às 09:31 UTC"),
}


@pytest.mark.parametrize("tag", LANGUAGES)
def test_numbers_sizes_and_moments(tag: str) -> None:
    """Some spaces don't break."""
    words = find_words(tag)
    written = (words.number(54_321), words.size(12_345_678), words.size(999), words.moment(MOMENT))
    assert tuple(re.sub(r"\s", " ", text) for text in written) == WRITTEN[tag]


@pytest.mark.parametrize(
    ("size_bytes", "written"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1_000, "1 kB"),
        (999_949, "999.9 kB"),
        (10**12, "1,000 GB"),
        (1_500_000_000, "1.5 GB"),
    ],
)
def test_sizes(size_bytes: int, written: str) -> None:
    assert find_words("en").size(size_bytes) == written


@pytest.mark.parametrize(("number", "form"), [(1, "plik"), (2, "pliki"), (5, "plików"), (12, "plików"), (22, "pliki")])
def test_scripts_choose_the_plural_forms_of_the_catalogue(number: int, form: str) -> None:
    """As language.js does."""
    one = "%(number)s record"
    records = {"plik": "rekord", "pliki": "rekordy", "plików": "rekordów"}[form]
    messages, plurals = find_words("pl").script
    assert messages[one][int(plurals[number])] == f"%(number)s {records}"
    assert plurals[100:] * 3 == "".join(plurals[100 + number % 100] for number in range(300))


def test_english_needs_no_catalogue() -> None:
    assert find_words("en").script == ({}, "")
    assert find_words("en").gettext("%(date)s at %(time)s UTC", date="Today", time="now") == "Today at now UTC"


def test_the_api_loads_no_data_of_locales() -> None:
    """It takes megabytes, and only mails and packages show numbers and dates."""
    loaded = (
        "import sys, service.api.server, languages.words as w; w.find_words('de'); sys.exit('babel' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", loaded], check=True)
