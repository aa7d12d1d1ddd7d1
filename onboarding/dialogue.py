"""`carryout init --interactive`: one open question after the other in a terminal, a keystroke an answer."""

import os
import shutil
import sys
import termios
import textwrap
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from guard.terminal import echo, prompt
from guard.text import printable
from onboarding.catalog import Catalog
from onboarding.new_columns import WOULD_EXPORT
from onboarding.own_rows import OwnQuestion
from onboarding.questions import (
    Edits,
    Kind,
    Question,
    call_table_not_personal,
    deny,
    deny_columns,
    deny_table,
    export,
    export_columns,
    keep_table,
    list_questions,
    merge,
    read_outline,
    read_text,
    save,
)

GROUPS = {Kind.COLUMNS, Kind.ALIKE_COLUMNS, Kind.LINKED_TABLES, Kind.OTHER_TABLES}
HEADS = {
    Kind.COLUMNS: "columns of several tables",
    Kind.LINKED_TABLES: "several tables",
    Kind.OTHER_TABLES: "several tables that nothing links to the user",
}
MAX_WIDTH = 100
MIN_WIDTH = 40
ESCAPE = "\x1b"
ENTER = {"\r", "\n"}
CTRL_D = "\x04"
MAX_BYTES = 32
QUIT = "q"

FindFault = Callable[[Path], str | None]

WORDS = {
    "e": "export",
    "d": "deny",
    "k": "keep",
    "n": "not personal",
    "r": "rest",
    "o": "one by one",
    "t": "deny table",
    "l": "later",
    "f": "file",
    "u": "undo",
    QUIT: "quit",
    "?": "help",
}
DONE = {"k": "kept", "t": "denied", "n": "called not personal"}
HELP = {
    "e": "export it: it is in each user's export from now on",
    "d": "deny it: it never leaves, and the file says why",
    "k": "keep the table: its file becomes a dataset, then its open columns are asked",
    "n": "not personal: nothing in the table is about a user, and its columns are decided",
    "r": "deny this column and all other open ones of its table",
    "o": "ask about each of these by itself",
    "t": "deny the whole table: its file goes, and tables.sql says why",
    "l": "later: the question stays open",
    "f": "show the file",
    "u": "undo the last answer, and again the one before",
    QUIT: "quit: the answers are kept, and the same command goes on from here",
    "?": "this help",
}


def propose(question: Question) -> str:
    """The key of the proposed answer: to export what only its kind speaks against, and to deny other columns."""
    if question.kind in {Kind.LINKED_TABLES, Kind.OTHER_TABLES}:
        return "o"
    if question.kind in {Kind.COLUMN, Kind.ALIKE_COLUMNS, Kind.COLUMNS}:
        return "e" if "unknown kind" in question.why or WOULD_EXPORT in question.why else "d"
    return "t" if question.table and ("other people" in question.why or "holds secrets" in question.why) else "l"


class Step(msgspec.Struct, frozen=True):
    """One keystroke: the edits that undo it, or the question that it put off."""

    before: Edits
    later: Question | None
    answers: int


class Keyboard:
    """Single keys of the terminal, in the order in which they were typed, ahead of time or pasted, too."""

    def __init__(self) -> None:
        self._descriptor = sys.stdin.fileno()
        self._typed: deque[str] = deque()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Without echo, until the end; Ctrl-C stays a signal."""
        modes = termios.tcgetattr(self._descriptor)
        try:
            tty.setcbreak(self._descriptor, termios.TCSADRAIN)
            yield
        finally:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, modes)

    def read(self) -> str:
        """The next key, QUIT at the end of input."""
        while not self._typed:
            tty.setcbreak(self._descriptor, termios.TCSADRAIN)  # each time, because Ctrl-Z and fg may end it
            typed = os.read(self._descriptor, MAX_BYTES).decode(errors="replace")
            if typed in {"", CTRL_D}:
                return QUIT
            self._typed.extend([typed] if typed.startswith(ESCAPE) else typed)
        return self._typed.popleft()


def _select(key: str, asked: list[Question]) -> list[Question]:
    """The questions that the key answers."""
    first = asked[0]
    return [other for other in asked if other.path == first.path] if key == "r" else [first]


class Dialogue:
    """Asks the open questions of the files in `directory`, and saves each answer at once.

    `find_fault` says why the service can't load a file, if it can't.
    """

    def __init__(self, directory: Path, catalog: Catalog, *, find_fault: FindFault) -> None:
        self._directory = directory
        self._catalog = catalog
        self._find_fault = find_fault
        self._keyboard = Keyboard()
        self._steps: list[Step] = []
        self._shown = ""

    @property
    def answers(self) -> int:
        return sum(step.answers for step in self._steps)

    def ask_own(self, question: OwnQuestion) -> bool:
        """Whether the rows that the question is about are of one user alone; unless the answer is yes, they are not."""
        self._say(
            f"{question.column} of the users leads to {question.target}, and {len(question.drafts)} undecided tables "
            "hang on it. Is each of its rows of one user alone?"
        )
        self._say("y yes  [n] no, or not sure", indent="  ")
        with self._keyboard.open():
            prompt("  > ")
            answer = self._keyboard.read().lower() == "y"
        echo("yes" if answer else "no", "")
        return answer

    def run(self) -> None:
        """Until all is answered or put off, or the operator quits. Raises KeyboardInterrupt for Ctrl-C."""
        self._say("Each answer is one key, and is saved at once. ? explains the keys; q or Ctrl-C loses nothing.")
        with self._keyboard.open():
            while asked := self._list_asked():
                key = self._ask(asked)
                if key == QUIT:
                    return
                self._act(key, asked)

    def _list_asked(self) -> list[Question]:
        later = [step.later for step in self._steps]
        asked = [question for question in list_questions(self._directory) if question not in later]
        several = [question for question in asked if question.kind in GROUPS]
        return [question for question in asked if not any(one.covers(question) for one in several)]

    def _ask(self, asked: list[Question]) -> str:
        """The key that the operator chose of those offered."""
        question, keys = asked[0], self._offer(asked)
        if (place := f"{question.path.name} {question.table}") != self._shown:
            self._shown = place
            self._show_table(question)
        self._show(question, len(asked))
        hints = [f"{f'[{key}]' if key == propose(question) else key} {WORDS[key]}" for key in keys if key != "?"]
        self._say("  ".join([*hints, "?"]), indent="  ")
        while True:
            prompt("  > ")
            typed = self._keyboard.read()
            key = propose(question) if typed in ENTER else typed.lower()
            if key in keys:
                echo(WORDS[key])
                return key
            echo("")
            self._say(f"Press one of {' '.join(keys)}, or Enter for {propose(question)}.", indent="  ")

    def _offer(self, asked: list[Question]) -> str:
        question = asked[0]
        denies = "t" * (question.table in self._catalog.tables and not question.is_about_profile)
        if question.kind is Kind.COLUMN:
            keys = "ed" + "r" * (sum(other.path == question.path for other in asked) > 1) + denies
        elif question.kind is Kind.COLUMNS:
            keys = "edo"
        elif question.kind is Kind.OTHER_TABLES:
            keys = "nto"
        elif question.kind is Kind.ALIKE_COLUMNS:
            keys = f"edo{denies}"
        elif question.kind is Kind.LINKED_TABLES:
            keys = "kto"
        else:
            keys = "k" * (question.kind is Kind.LINKED_TABLE) + "n" * bool(denies) + denies
        file = "f" * (question.kind in {Kind.COLUMN, Kind.ALIKE_COLUMNS, Kind.LINKED_TABLE})
        return f"{keys}l{file}{'u' * bool(self._steps)}{QUIT}?"

    def _act(self, key: str, asked: list[Question]) -> None:
        question = asked[0]
        if key == "?":
            for each in self._offer(asked):
                self._say(HELP[each], indent=f"    {each}  ")
        elif key == "f":
            echo(*(f"    {line}" for line in read_text(question.path).splitlines()))
        elif key == "u":
            save(self._steps.pop().before)
            self._shown = ""
        elif key in "lo":
            self._steps.append(Step({}, question, 0))
        elif question.kind in {Kind.LINKED_TABLES, Kind.OTHER_TABLES}:
            self._decide_tables(key, self._list_covered(question))
        elif question.kind is Kind.COLUMNS and key == "e":
            self._export_columns(question)
        elif question.kind is Kind.ALIKE_COLUMNS and key in "ed":
            self._decide_columns(key, self._list_covered(question))
        elif key == "k":
            self._keep(question)
        else:
            self._steps.append(Step(save(self._edit(key, asked)), None, len(_select(key, asked))))

    def _edit(self, key: str, asked: list[Question]) -> Edits:
        question = asked[0]
        if key == "e":
            return export(question)
        if key in "dr":
            return deny_columns(question) if question.kind is Kind.COLUMNS else deny(_select(key, asked))
        decide = deny_table if key == "t" else call_table_not_personal
        return decide(question, self._catalog.tables[question.table])

    def _list_covered(self, question: Question) -> list[Question]:
        return [other for other in list_questions(self._directory) if question.covers(other)]

    def _export_columns(self, question: Question) -> None:
        before: Edits = {}
        covered = self._list_covered(question)
        for edits in export_columns(question, covered):
            before = merge(before, save(edits))
        self._steps.append(Step(before, None, len(covered)))

    def _decide_columns(self, key: str, several: list[Question]) -> None:
        before: Edits = {}
        for question in several:
            before = merge(before, save(export(question) if key == "e" else deny([question])))
        self._steps.append(Step(before, None, len(several)))

    def _decide_tables(self, key: str, several: list[Question]) -> None:
        """Keep or deny each; a table that can't be loaded, or isn't there any more, stays open."""
        before: Edits = {}
        count = 0
        for question in several:
            table = self._catalog.tables.get(question.table)
            if key == "k":
                edits = keep_table(question)
            elif table is None:
                continue
            else:
                edits = deny_table(question, table) if key == "t" else call_table_not_personal(question, table)
            undo = save(edits)
            if key == "k" and any(self._find_fault(path) for path, text in edits.items() if text):
                save(undo)
                continue
            before = merge(before, undo)
            count += 1
        self._say(f"{count} tables {DONE[key]}.", indent="  ")
        self._steps.append(Step(before, several[0] if not count else None, count))

    def _keep(self, question: Question) -> None:
        edits = keep_table(question)
        before = save(edits)
        try:
            fault = next((fault for path, text in edits.items() if text and (fault := self._find_fault(path))), None)
        except BaseException:
            save(before)
            raise
        if fault is None:
            self._steps.append(Step(before, None, 1))
            return
        save(before)
        self._say(f"The service can't load it: {fault}. Mend {question.path} in an editor, or deny the table.")

    def _show_table(self, question: Question) -> None:
        echo("", "-" * self._width())
        echo(HEADS.get(question.kind) or question.table or question.path.name)
        table = self._catalog.tables.get(question.table)
        if table and table.comment:
            self._say(table.comment, indent="  ")
        if question.kind is Kind.LINKED_TABLES:
            covered = [other.table for other in self._list_covered(question)]
            self._say(f"{len(covered)}: {', '.join(covered)}", indent="  ")
        if question.kind is Kind.OTHER_TABLES:
            for other in self._list_covered(question):
                self._say(f"{other.table}: {self._list_columns(other.table)}", indent="  ")
        if question.kind in HEADS:
            return
        if question.kind is Kind.OTHER_TABLE:
            self._say(self._list_columns(question.table), indent="  columns: ")
            return
        outline = read_outline(question.path)
        for line in outline.joins:
            self._say(line, indent="  ")
        self._say(", ".join(outline.exported) or "none yet", indent="  exported: ")

    def _list_columns(self, quoted: str) -> str:
        table = self._catalog.tables.get(quoted)
        return ", ".join(column.name for column in table.columns) if table else ""

    def _show(self, question: Question, count: int) -> None:
        echo("")
        if question.kind is Kind.COLUMN:
            self._say(f"{question.column or question.item}  {self._describe(question)}  ({count} left)")
        elif question.kind is Kind.ALIKE_COLUMNS:
            covered = self._list_covered(question)
            self._say(f"{', '.join(other.column or other.item for other in covered)}  ({count} left)")
        else:
            whole = "all of these tables" if question.kind in HEADS else "the whole table"
            self._say(f"{question.column or whole}  ({count} left)")
        self._say(question.why, indent="  ")

    def _describe(self, question: Question) -> str:
        table = self._catalog.tables.get(question.table)
        column = table.find_column(question.column) if table else None
        if table is None or column is None:
            return ""
        targets = (key.target for key in table.foreign_keys if question.column in key.columns)
        facts = [column.type_name, *(["not null"] if column.not_null else []), *(f"points to {to}" for to in targets)]
        return ", ".join(facts)

    def _say(self, text: str, indent: str = "") -> None:
        text = printable(text, max_characters=None)
        echo(*textwrap.wrap(text, self._width(), initial_indent=indent, subsequent_indent=" " * len(indent)) or [""])

    def _width(self) -> int:
        return max(MIN_WIDTH, min(shutil.get_terminal_size().columns, MAX_WIDTH) - 1)
