"""Every message is in every catalogue, whole: translated, with its values, and compiled."""

import re
from io import BytesIO

import pytest
from babel.messages.catalog import Message
from babel.messages.mofile import write_mo

from tests.languages.catalogues import DOMAINS, TRANSLATED, extract, forms, path_of, read

PLACEHOLDER = re.compile(r"%\(\w+\)s|%")
MARKUP = re.compile(r"[<>&{}]")
each = pytest.mark.parametrize(("domain", "tag"), [(domain, tag) for domain in DOMAINS for tag in TRANSLATED])


def messages(domain: str, tag: str) -> list[Message]:
    return [message for message in read(domain, tag) if message.id]


@pytest.mark.parametrize("domain", DOMAINS)
def test_messages_are_found(domain: str) -> None:
    assert len(extract(domain)) > 60


@each
def test_has_the_messages_of_the_source_alone(domain: str, tag: str) -> None:
    """`make messages` adds and removes them."""
    assert {message.id for message in messages(domain, tag)} == {
        message.id for message in extract(domain) if message.id
    }


@each
def test_every_message_is_translated(domain: str, tag: str) -> None:
    catalogue = read(domain, tag)
    assert not [message.id for message in messages(domain, tag) if message.fuzzy]
    for message in messages(domain, tag):
        translated = forms(message.string)
        assert len(translated) == (catalogue.num_plurals if message.pluralizable else 1), message.id
        assert all(text.strip() == text != "" for text in translated), message.id


@each
def test_translations_have_the_values_of_their_message(domain: str, tag: str) -> None:
    for message in messages(domain, tag):
        values = {frozenset(PLACEHOLDER.findall(text)) for text in forms(message.id)}
        for text in forms(message.string):
            found = PLACEHOLDER.findall(text)
            assert len(found) == len(set(found)), text
            assert frozenset(found) in values, text


@each
def test_translations_hold_no_markup(domain: str, tag: str) -> None:
    """Templates insert messages as they are, and their values escaped."""
    assert not [text for message in messages(domain, tag) for text in forms(message.string) if MARKUP.search(text)]


@each
def test_translations_end_as_their_message(domain: str, tag: str) -> None:
    for message in messages(domain, tag):
        mark = re.search(r"[.:?]?$", forms(message.id)[0])
        assert mark
        for text in forms(message.string):
            assert text.endswith(mark[0]), text
            assert mark[0] or text[-1] not in ".:", text


@each
def test_is_compiled(domain: str, tag: str) -> None:
    compiled = BytesIO()
    write_mo(compiled, read(domain, tag))
    assert path_of(domain, tag, ".mo").read_bytes() == compiled.getvalue(), "make messages"
