"""`carryout init --interactive` in a terminal, as an operator answers it."""

import shutil
from pathlib import Path

from service.documents.datasets import load_datasets
from service.settings import SQL_DIR
from tests.onboarding.conftest import Application, committed
from tests.sql.sources import FORBIDDEN
from tests.support import processes
from tests.support.terminal import COLUMNS, Terminal, open_terminal

PROMPT = "  > "


def arguments(application: Application) -> list[str | Path]:
    return ["init", application.url, "--out", application.directory, "--interactive"]


async def begin(terminal: Terminal) -> str:
    return await terminal.until(PROMPT)


@committed("shop")
async def test_each_answer_is_one_key_and_is_saved_at_once(application: Application) -> None:
    async with open_terminal(*arguments(application)) as terminal:
        shown = await begin(terminal)
        assert "\npublic.auth_user\n" in shown
        assert "is_superuser  bool, not null  (4 left)\n  may be written by staff, or work as a key\n" in shown
        shown = await terminal.press("d", PROMPT)
        assert "    -- deny is_superuser: may be written by staff, or work as a key\n" in application.read(
            "profile.sql"
        )
        assert "\npublic.shop_orderitem\n  JOIN public.shop_order ON " in shown
        shown = await terminal.press("e", PROMPT)
        assert "shop_orderitem.gift_text," in application.live_lines("shop_orderitem.sql")
        assert "\nrisk_score  int4  (2 left)\n" in shown
        await terminal.press("\r", PROMPT)
        assert "-- deny risk_score: " in application.read("shop_profile.sql")
        shown = await terminal.press("d", "\nA role that can read only the columns that the files read:\n")
        assert f"\n4 answers are saved in {application.directory}, 0 questions are open.\n" in shown
        assert await terminal.end() == 0
        example = (SQL_DIR.parent / "docs" / "operators.md").read_text()
        _, shown, _ = terminal.text.partition("public.shop_profile\n")
        assert shown.partition("\n4 answers")[0] in example
    status, out, _ = await processes.run({}, "check", application.url, "--datasets", application.directory)
    assert (status, out) == (0, "Each table and each column of the database is decided.\n")


@committed("shop")
async def test_undo_goes_back_answer_by_answer(application: Application) -> None:
    async with open_terminal(*arguments(application)) as terminal:
        assert "u undo" not in await begin(terminal)
        before = {name: application.read(name) for name in application.files}
        await terminal.press("d", PROMPT)
        await terminal.press("t", PROMPT)
        assert "shop_orderitem.sql" not in application.files
        shown = await terminal.press("l", PROMPT)
        assert "(1 left)" in shown
        for left in ("(2 left)", "(3 left)", "(4 left)"):
            assert left in await terminal.press("u", PROMPT)
        assert {name: application.read(name) for name in application.files} == before
        await terminal.press("q", "0 answers are saved")
        assert await terminal.end() == 0


@committed("shop")
async def test_ctrl_c_keeps_the_answers_and_the_next_run_goes_on(application: Application) -> None:
    async with open_terminal(*arguments(application)) as terminal:
        await begin(terminal)
        await terminal.press("d", PROMPT)
        await terminal.press("\x03", "3 questions are open.")
        assert await terminal.end() == 130
        assert "Traceback" not in terminal.text
    async with open_terminal(*arguments(application)) as terminal:
        shown = await begin(terminal)
        assert "gift_text  text  (3 left)" in shown
        await terminal.press("\x04", "0 answers are saved")  # Ctrl-D, or the end of input
        assert await terminal.end() == 0


@committed("shop")
async def test_other_keys_change_nothing(application: Application) -> None:
    async with open_terminal(*arguments(application)) as terminal:
        await begin(terminal)
        before = {name: application.read(name) for name in application.files}
        for key in ("\x1b[A", "x", "\x1b", "k", "ü"):
            assert "Press one of e d l f q ?, or Enter for d." in await terminal.press(key, PROMPT)
        assert "the whole table" not in await terminal.press("?", PROMPT)
        assert "-- users: public.auth_user" in await terminal.press("f", PROMPT)
        assert {name: application.read(name) for name in application.files} == before


@committed("social")
async def test_tables_are_decided_as_a_whole(application: Application) -> None:
    await application.connection.execute("CREATE TABLE letters (id bigint PRIMARY KEY, body text)")
    await application.connection.execute("COMMENT ON TABLE letters IS 'Paper, scanned'")
    async with open_terminal(*arguments(application)) as terminal:
        shown = await begin(terminal)
        while "public.letters\n  Paper, scanned\n  columns: id, body\n" not in shown:
            shown = await terminal.press("l", PROMPT)
        assert "  n not personal  t deny table  [l] later  " in shown
        await terminal.press("n", "question")
        (line,) = [line for line in application.read("tables.sql").splitlines() if "public.letters" in line]
        assert line.startswith("-- not personal table public.letters (id, body): an operator's decision, although ")
        await terminal.end()


@committed("saas")
async def test_an_undecided_table_is_kept_only_if_it_loads(application: Application) -> None:
    outcome = await application.initialize()
    doubted = {draft.name: draft for draft in outcome.drafts.datasets if draft.doubt}
    seen = set()
    async with open_terminal(*arguments(application)) as terminal:
        shown = await begin(terminal)
        while "(1 left)" not in shown:
            if "  k keep  " in shown.rpartition("the whole table")[2]:
                shown = await terminal.press("k", PROMPT)
                seen.add("can't load it" in shown.replace("\n", " "))
            shown = await terminal.press("l", PROMPT)
    assert doubted
    assert seen
    await load_datasets(
        application.connection,
        application.directory,
        user_id_type=outcome.drafts.users.user_id_type,
        forbidden=FORBIDDEN,
    )


@committed("social")
async def test_one_answer_decides_whose_rows_the_accounts_are(application: Application) -> None:
    async with open_terminal(*arguments(application)) as terminal:
        shown = await begin(terminal)
        assert "account_id of the users leads to public.accounts" in shown.replace("\n", " ")
        undecided = {name for name in application.files if name.endswith(".undecided")}
        assert "accounts.sql.undecided" in undecided
        await terminal.press("y", "0 questions are open.")
        assert await terminal.end() == 0
    assert "accounts.sql" in application.files
    assert "-- own: account_id\n" in application.read("profile.sql")
    async with open_terminal(*arguments(application)) as terminal:
        assert await terminal.end() == 0
        assert "leads to public.accounts" not in terminal.text.replace("\n", " ")
    assert "accounts.sql.undecided" not in application.files


@committed("social")
async def test_a_denied_table_stays_denied(application: Application) -> None:
    outcome = await application.initialize()
    name = next(draft.name for draft in outcome.drafts.datasets[1:] if not draft.doubt)
    table = next(draft.table for draft in outcome.drafts.datasets if draft.name == name)
    (application.directory / f"{name}.sql").unlink()
    tables = application.directory / "tables.sql"
    tables.write_text(f"{tables.read_text()}-- deny table {table.quoted}: secret\n")
    again = await application.initialize()
    assert f"{name}.sql" not in application.files
    assert table.quoted in again.drafts.denied
    assert tables.read_text().count(f"table {table.quoted}") == 1


@committed("shop")
async def test_it_fits_80_columns_and_has_no_escape_sequences(application: Application) -> None:
    async with open_terminal(*arguments(application)) as terminal:
        for keys in ("?", "f", "e", "?", "d", "d"):
            await begin(terminal)
            await terminal.press(keys, PROMPT)
        shown = terminal.text.partition("Each answer is one key")[2]
    assert "\x1b" not in shown
    lines = [line for line in shown.splitlines() if not line.startswith("    ")]  # but those of a file
    assert max(map(len, lines)) <= COLUMNS


@committed("shop")
async def test_without_a_terminal_it_says_so(application: Application, tmp_path: Path) -> None:
    status, out, err = await processes.run({}, *arguments(application))
    assert (status, out) == (2, "")
    assert err == (
        "carryout: --interactive needs a terminal for input and output: run it in one, or edit the files by hand "
        "without it\n"
    )
    assert not application.directory.exists()
    shutil.rmtree(tmp_path, ignore_errors=True)


@committed("empty")
async def test_what_has_one_reason_is_asked_at_once(application: Application) -> None:
    await application.connection.execute("""
        CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, mood text, gait text, aura text);
        CREATE TABLE boats (id bigint PRIMARY KEY, owner_id bigint NOT NULL REFERENCES users);
        CREATE TABLE sails (id bigint PRIMARY KEY, boat_id bigint NOT NULL REFERENCES boats, area int);
        CREATE TABLE oars (id bigint PRIMARY KEY, boat_id bigint NOT NULL REFERENCES boats, side int);
        CREATE TABLE decks (id bigint PRIMARY KEY, boat_id bigint NOT NULL REFERENCES boats, size int);
    """)
    async with open_terminal(*arguments(application)) as terminal:
        shown = await begin(terminal)
        assert "\nmood, gait, aura  (" in shown
        assert "  [e] export  d deny  o one by one  " in shown
        shown = await terminal.press("e", PROMPT)
        assert {"mood,", "gait,", "aura,"} <= {
            f"{line},".replace(",,", ",") for line in application.live_lines("profile.sql")
        }
        assert "3: public.decks, public.oars, public.sails\n" in shown
        await terminal.press("k", "0 questions are open.")
        assert {"decks.sql", "oars.sql", "sails.sql"} <= application.files
        assert await terminal.end() == 0
    await load_datasets(application.connection, application.directory, user_id_type="bigint", forbidden=FORBIDDEN)


@committed("empty")
async def test_one_by_one_and_undo_of_several(application: Application) -> None:
    await application.connection.execute(
        "CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, mood text, gait text, aura text)"
    )
    async with open_terminal(*arguments(application)) as terminal:
        await begin(terminal)
        assert "\nmood  text  (3 left)\n" in await terminal.press("o", PROMPT)
        assert "\nmood, gait, aura  (1 left)\n" in await terminal.press("u", PROMPT)
        before = application.read("profile.sql")
        await terminal.press("d", "0 questions are open.")
        assert application.read("profile.sql").count("-- deny ") == 3
        assert before.count("-- deny ") == 0


@committed("empty")
async def test_columns_of_several_tables_are_asked_at_once(application: Application) -> None:
    await application.connection.execute("""
        CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, name text);
        CREATE TABLE boats (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, staff_score int);
        CREATE TABLE sails (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, staff_score int);
        CREATE TABLE oars (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, staff_score int);
    """)
    async with open_terminal(*arguments(application)) as terminal:
        shown = await begin(terminal)
        assert "\ncolumns of several tables\n\n*_score  (1 left)\n" in shown
        assert "\npublic.boats\n" in await terminal.press("o", PROMPT)
        assert "\ncolumns of several tables\n" in await terminal.press("u", PROMPT)
        await terminal.press("d", "0 questions are open.")
        assert await terminal.end() == 0
    assert "\n-- deny column *_score: may be written by staff" in application.read("tables.sql")
    assert (await application.check()).is_clean


@committed("empty")
async def test_columns_of_several_tables_can_be_exported_at_once(application: Application) -> None:
    await application.connection.execute("""
        CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, name text);
        CREATE TABLE boats (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, aura text);
        CREATE TABLE sails (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, aura text);
    """)
    async with open_terminal(*arguments(application)) as terminal:
        shown = await begin(terminal)
        assert "\ncolumns of several tables\n\naura  (1 left)\n" in shown
        assert "  [e] export  d deny  o one by one  " in shown
        await terminal.press("e", "0 questions are open.")
        assert await terminal.end() == 0
    assert "aura," in application.live_lines("boats.sql")
    assert "aura," in application.live_lines("sails.sql")
    assert "aura" not in application.read("tables.sql")
    assert (await application.check()).is_clean
    await load_datasets(application.connection, application.directory, user_id_type="bigint", forbidden=FORBIDDEN)


@committed("empty")
async def test_tables_without_a_link_are_asked_about_at_once(application: Application) -> None:
    await application.connection.execute("""
        CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, name text);
        CREATE TABLE rules (id bigint PRIMARY KEY, text text);
        CREATE TABLE hints (id bigint PRIMARY KEY, body text);
        CREATE TABLE visitors (id bigint PRIMARY KEY, email_seen text, body text);
    """)
    async with open_terminal(*arguments(application)) as terminal:
        shown = await begin(terminal)
        assert "\n  public.hints: id, body\n  public.rules: id, text\n" in shown
        assert "\n  no link to a user was found, but a column may be written by a user\n" in shown
        shown = await terminal.press("n", PROMPT)
        assert "  2 tables called not personal.\n" in shown
        assert "\npublic.visitors\n" in shown
        assert "\n  public.hints: id, body\n" in await terminal.press("u", PROMPT)
        await terminal.press("n", PROMPT)
        await terminal.press("t", "0 questions are open.")
        assert await terminal.end() == 0
    tables = application.read("tables.sql")
    assert "-- not personal table public.hints (id, body): an operator's decision" in tables
    assert "-- deny table public.visitors: " in tables
    assert (await application.check()).is_clean


@committed("empty")
async def test_columns_that_are_new_in_files_that_were_there_are_asked_about(application: Application) -> None:
    await application.connection.execute("""
        CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, name text);
        CREATE TABLE boats (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, title text);
        CREATE TABLE sails (id bigint PRIMARY KEY, boat_id bigint NOT NULL REFERENCES boats, title text);
        CREATE TABLE seas (id bigint PRIMARY KEY, title text);
        CREATE TABLE oars (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, title text);
    """)
    await application.initialize()
    (application.directory / "oars.sql").write_text(
        "-- table: public.oars\nSELECT id, title FROM public.oars WHERE user_id = $1::bigint ORDER BY id\n"
        "-- key user_id: the user's own id\n"
    )
    assert (await application.check()).is_clean
    await application.connection.execute("""
        ALTER TABLE users ADD aura jsonb;
        ALTER TABLE sails ADD city text, ADD door_code text;
        ALTER TABLE seas ADD finder_email text;
        ALTER TABLE oars ADD city text;
    """)
    async with open_terminal(*arguments(application)) as terminal:
        assert "\naura  jsonb  (" in await begin(terminal)
        assert "\ncity  text  (" in await terminal.press("d", PROMPT)
        shown = await terminal.press("\r", PROMPT)
        assert "\ncity  text  (" in shown
        assert "\n  new in the table, init would export it\n" in shown
        assert "\ndoor_code  text  (" in await terminal.press("e", PROMPT)
        assert "\npublic.seas\n" in await terminal.press("\r", PROMPT)
        await terminal.press("t", "0 questions are open.")
        assert await terminal.end() == 0
    assert (await application.check()).is_clean
    loaded = await load_datasets(
        application.connection, application.directory, user_id_type="bigint", forbidden=FORBIDDEN
    )
    names = {one.name: [column.name for column in one.columns] for one in loaded}
    assert names["oars"] == ["city", "id", "title"]
    assert set(names["sails"]) == {"id", "boat_id", "title", "city"}


@committed("empty")
async def test_a_new_column_of_a_file_that_cannot_be_edited_is_named(application: Application) -> None:
    await application.connection.execute("""
        CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, name text);
        CREATE TABLE oars (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, title text);
    """)
    await application.initialize()
    text = (
        "-- table: public.oars\n-- key user_id: the user's own id\nWITH mine AS (SELECT id, title FROM public.oars "
        "WHERE user_id = $1::bigint)\nSELECT id, title FROM mine ORDER BY id\n"
    )
    (application.directory / "oars.sql").write_text(text)
    await application.connection.execute("ALTER TABLE oars ADD city text")
    async with open_terminal(*arguments(application)) as terminal:
        await terminal.until("0 questions are open.")
        assert await terminal.end() == 0
        shown = " ".join(terminal.text.split())
    assert "new columns in their files, which init can't edit: public.oars.city" in shown
    assert application.read("oars.sql") == text
    assert (await application.check()).undecided_columns == ["public.oars.city"]


@committed("empty")
async def test_a_denied_table_gives_no_names_to_other_sections(application: Application) -> None:
    await application.connection.execute("""
        CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL UNIQUE);
        CREATE TABLE crews (id bigint PRIMARY KEY, name text, notes text);
        CREATE TABLE shifts (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES users,
            crew_id bigint REFERENCES crews);
        CREATE TABLE swaps (crew_id bigint REFERENCES crews, user_id bigint PRIMARY KEY REFERENCES users);
    """)
    async with open_terminal(*arguments(application)) as terminal:
        assert "\npublic.crews\n" in await begin(terminal)
        assert "AS crew_name" in application.read("shifts.sql")
        await terminal.press("t", "0 questions are open.")
        assert await terminal.end() == 0
    for name in ("shifts.sql", "swaps.sql"):
        assert "AS crew_name" not in application.read(name)
    assert (await application.check()).is_clean
    await load_datasets(application.connection, application.directory, user_id_type="bigint", forbidden=FORBIDDEN)
