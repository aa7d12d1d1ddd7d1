"""Numbers, sizes and dates as a locale of CLDR writes them."""

import datetime as dt

from babel import Locale
from babel.dates import format_date, format_time
from babel.numbers import format_decimal
from babel.units import format_unit

UNITS = ("kilobyte", "megabyte", "gigabyte")


class Formats:
    def __init__(self, locale: str) -> None:
        self._locale = Locale.parse(locale)

    def number(self, value: float) -> str:
        return format_decimal(value, locale=self._locale)

    def size(self, size_bytes: int) -> str:
        """With the largest unit of which there is one, to a tenth."""
        if size_bytes < 1000:  # noqa: PLR2004
            return format_unit(size_bytes, "digital-byte", locale=self._locale)
        power = min((len(str(size_bytes)) - 1) // 3, len(UNITS))
        value = round(size_bytes / 1000**power, 1)
        return format_unit(value, f"digital-{UNITS[power - 1]}", length="short", format="#,##0.#", locale=self._locale)

    def date(self, moment: dt.datetime) -> str:
        return format_date(moment, "long", locale=self._locale)

    def time(self, moment: dt.datetime) -> str:
        return format_time(moment, "short", locale=self._locale)
