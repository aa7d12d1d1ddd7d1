"""The operator's own mails: a folder of templates that run in a sandbox, and are tried with samples at the start."""

import re
import traceback
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import jinja2
import structlog
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import escape

from languages.choice import LANGUAGES
from languages.templates import localize
from languages.words import find_words
from service.branding.brand import Brand
from service.errors import ConfigurationError
from service.mails.samples import SAMPLES

NAME: Final = "CARRYOUT_TEMPLATES_DIR"
KINDS: Final = tuple(SAMPLES)
SUFFIXES: Final = (".txt", ".html")
# The first character of a file that templates include or extend.
SHARED: Final = "_"
SUBJECT: Final = re.compile(r"Subject: *(\S.*)\n\s*")

logger = structlog.get_logger()


class MailTexts(NamedTuple):
    """`subject` is empty if the templates have none of their own."""

    subject: str
    text: str
    html: str


class OwnTemplates:
    """Templates of `folder`; those in its folder of a language go before those that are for all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def render(self, kind: str, language: str, brand: Brand, facts: Mapping[str, object]) -> MailTexts | None:
        """None without templates of `kind`, or if they fail: then the mail goes out in Carryout's words."""
        if not self.has(kind, language):
            return None
        try:
            return self.try_out(kind, language, brand, facts)
        except Exception as error:  # noqa: BLE001 (a template may do anything, and the user waits for the mail)
            # Without its message, which may quote facts about the user.
            place = _place(error, self.folder)
            logger.error("own_template_failed", kind=kind, language=language, place=place, error=type(error).__name__)  # noqa: TRY400
            return None

    def has(self, kind: str, language: str) -> bool:
        return any((level / f"{kind}.txt").is_file() for level in self._levels(language))

    def try_out(self, kind: str, language: str, brand: Brand, facts: Mapping[str, object]) -> MailTexts:
        environment = self.environment(language)
        text, html = (environment.get_template(f"{kind}{suffix}").render(facts, brand=brand) for suffix in SUFFIXES)
        subject = SUBJECT.match(text)
        return MailTexts(subject[1].strip() if subject else "", text[subject.end() :] if subject else text, html)

    @cache  # noqa: B019 (one instance a process)
    def environment(self, language: str) -> jinja2.Environment:
        environment = ImmutableSandboxedEnvironment(
            loader=jinja2.FileSystemLoader(self._levels(language)),
            autoescape=jinja2.select_autoescape(["html"]),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.clear()
        return localize(environment, find_words(language))

    def _levels(self, language: str) -> list[Path]:
        return [self.folder / language, self.folder]


@cache
def find_own_templates(folder: str, brand: Brand) -> OwnTemplates | None:
    """The templates of `TEMPLATES_DIR`, which may be empty. Raises ConfigurationError if one of them is broken."""
    if not folder:
        return None
    templates = OwnTemplates(Path(folder))
    _require_known_files(templates.folder)
    for language in LANGUAGES:
        for kind in KINDS:
            if templates.has(kind, language):
                _require_declared(templates, kind, language)
                _require_readable(templates, kind, language, brand)
    return templates


def _require_known_files(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigurationError(f"{NAME}: {folder} is not a folder")
    known = {f"{kind}{suffix}" for kind in KINDS for suffix in SUFFIXES}
    for level in (folder, *(folder / language for language in LANGUAGES)):
        names = {path.name for path in _files(level)}
        languages = LANGUAGES.keys() if level == folder else set()
        for name in sorted(names - known - languages):
            if not name.startswith(SHARED):
                raise _fault(f"{_inside(level / name, folder)} is none of {', '.join(sorted(known))}")
        for kind in KINDS:
            found = names & {f"{kind}{suffix}" for suffix in SUFFIXES}
            if len(found) == 1:
                raise _fault(f"{_inside(level / min(found), folder)} needs its other half, text or HTML, beside it")


def _files(level: Path) -> Iterator[Path]:
    """Without hidden ones, such as those of a mounted ConfigMap."""
    return (path for path in level.glob("*") if not path.name.startswith("."))


def _require_declared(templates: OwnTemplates, kind: str, language: str) -> None:
    """Each name in the templates is one of the facts, also where the samples don't lead."""
    environment = templates.environment(language)
    known = {*SAMPLES[kind][0], "brand", *environment.globals}
    for suffix in SUFFIXES:
        try:
            environment.get_template(f"{kind}{suffix}")  # names the file and the line of what it can't compile
            source, path, _ = environment.loader.get_source(environment, f"{kind}{suffix}")  # type: ignore[union-attr]
            tree = environment.parse(source, f"{kind}{suffix}", path)
            unknown = meta.find_undeclared_variables(tree) - known
        except (jinja2.TemplateError, UnicodeDecodeError) as error:
            raise _fault(_describe(error, templates.folder)) from None
        if unknown:
            line, name = min((node.lineno, node.name) for node in tree.find_all(nodes.Name) if node.name in unknown)
            raise _fault(f"{_inside(Path(path or ''), templates.folder)}, line {line}: {name!r} is undefined")


def _require_readable(templates: OwnTemplates, kind: str, language: str, brand: Brand) -> None:
    for facts in SAMPLES[kind]:
        try:
            mail = templates.try_out(kind, language, brand, facts)
        except Exception as error:  # noqa: BLE001 (a template may do anything)
            raise _fault(_describe(error, templates.folder)) from None
        url, reason = str(facts.get("url", "")), str(facts["reason"])
        if url not in mail.text:
            raise _fault(f"{kind}.txt ({language}) must contain {{{{ url }}}}, the link to the file")
        if str(escape(url)) not in mail.html:
            raise _fault(f"{kind}.html ({language}) must contain {{{{ url }}}}, the link to the file")
        if "<" in reason and reason in mail.html:
            raise _fault(f"{kind}.html ({language}) must not show `reason` without escaping it")


def _describe(error: Exception, folder: Path) -> str:
    match error:
        case jinja2.TemplateNotFound():
            what = f"the template {error.name} is missing"
        case jinja2.TemplateError():
            what = error.message or type(error).__name__
        case UnicodeDecodeError():
            what = "a template is not UTF-8"
        case _:
            what = f"{type(error).__name__}: {error}"
    return ": ".join(filter(None, [_place(error, folder), what]))


def _place(error: Exception, folder: Path) -> str:
    """The file and the line of a template; empty if the error doesn't come from one."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"{_inside(Path(error.filename or ''), folder)}, line {error.lineno}"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(folder)
    ]
    return f"{_inside(Path(frames[-1].filename), folder)}, line {frames[-1].lineno}" if frames else ""


def _inside(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name


def _fault(sentence: str) -> ConfigurationError:
    return ConfigurationError(f"{NAME}: {sentence}")
