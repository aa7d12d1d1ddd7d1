"""`carryout init` and `carryout check`, run as they are run."""

from pathlib import Path

import asyncpg
import msgspec

from onboarding.checking import Findings
from service.documents.datasets import load_datasets
from service.documents.schema import load_schema
from tests.onboarding.conftest import Application, committed
from tests.support import processes


async def run(*arguments: str | Path, **environ: str) -> processes.Ended:
    return await processes.run(environ, *arguments)


@committed("shop")
async def test_from_a_schema_to_decided_datasets(application: Application) -> None:
    status, out, err = await run("init", application.url, "--out", application.directory)
    assert (status, err) == (0, "")
    beside = application.directory.parent / "lists"
    assert "ORDER BY id" in (beside / "users.sql").read_text()
    assert "8 tables point to public.auth_user: 7 are exported, 0 undecided, 1 denied; " in out
    assert "    CARRYOUT_USER_ID_TYPE=bigint\n" in out
    assert out.endswith("The service loads these datasets against this database: verified.\n")

    settings = {"CARRYOUT_DATABASE_URL": application.url, "CARRYOUT_DATASETS_DIR": str(application.directory)}
    status, out, err = await run("check", **settings)
    assert (status, err) == (1, "")
    assert "\n    public.shop_profile.risk_score\n" in out

    status, out, _ = await run("check", "--json", **settings)
    findings = msgspec.json.decode(out, type=Findings)
    assert (status, findings.is_clean) == (1, False)
    for column in findings.undecided_columns:
        table, _, name = column.rpartition(".")
        file = "profile" if table == "public.auth_user" else table.removeprefix("public.")
        application.replace(f"{file}.sql", "SELECT\n", f"-- deny {name}: decided\nSELECT\n")
    status, out, _ = await run("check", application.url, "--datasets", application.directory)
    assert (status, out) == (0, "Each table and each column of the database is decided.\n")

    (beside / "broken.sql").write_text("SELECT id, email FROM public.auth_user")
    status, _, err = await run("check", **settings)
    assert status == 2
    assert err.startswith("carryout: List broken.sql: it has no ORDER BY: rows need a unique order")
    (beside / "broken.sql").unlink()

    status, out, err = await run("check", "--grants", "--role", "shop_reader", **settings)
    assert (status, err) == (0, "")
    assert out.startswith("CREATE ROLE shop_reader LOGIN PASSWORD '…';\nGRANT USAGE ON SCHEMA public TO shop_reader;\n")


@committed("social")
async def test_a_wrong_question_is_refused_in_a_sentence(application: Application) -> None:
    status, _, err = await run("init", application.url, "--out", application.directory, "--own", "email")
    assert (status, err) == (2, "carryout: public.users.email is not a foreign key, so it leads nowhere\n")
    for wrong in ("postgresql://127.0.0.1:1/none", "mysql://x", f"{application.url}_none"):
        status, _, err = await run("init", wrong, "--out", application.directory)
        assert (status, err.count("\n")) == (2, 1)
        assert err.startswith("carryout: ")
        assert "DSN" in err
    application.directory.mkdir()
    status, _, err = await run("check", application.url, "--datasets", application.directory)
    assert (status, err) == (2, f"carryout: {application.directory} has no profile.sql\n")
    status, _, err = await run("check", application.url, "--datasets", application.directory, "--grants")
    assert (status, err) == (2, f"carryout: {application.directory} has no profile.sql\n")
    status, _, err = await run("init", application.url, "--out", Path(__file__) / "datasets")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("carryout: --out: ")


@committed("shop")
async def test_a_folder_that_every_account_may_write_to_is_refused_before_it_is_written(
    application: Application,
) -> None:
    application.directory.mkdir()
    for mode in (0o777, 0o757):
        application.directory.chmod(mode)
        status, _, err = await run("init", application.url, "--out", application.directory)
        assert (status, err.count("\n")) == (2, 1)
        assert "every account may write to its folder" in err
        assert list(application.directory.rglob("*.sql")) == []


@committed("shop")
async def test_takes_the_settings_of_a_file(application: Application, tmp_path: Path) -> None:
    status, _, err = await run("check", "--datasets", tmp_path)
    assert (status, err) == (
        2,
        "carryout: DSN is missing: give it, or set CARRYOUT_SOURCE_DATABASE_URL or CARRYOUT_DATABASE_URL\n",
    )
    await application.initialize()
    settings = tmp_path / "settings.env"
    settings.write_text(f"CARRYOUT_DATABASE_URL={application.url}\nCARRYOUT_DATASETS_DIR={application.directory}\n")
    status, out, err = await run("check", "--env-file", settings)
    assert (status, err) == (1, "")
    assert "public.shop_profile.risk_score" in out
    status, _, err = await run("check", "--env-file", settings, CARRYOUT_DATASETS_DIR=str(tmp_path))
    assert (status, err) == (2, f"carryout: {tmp_path} has no profile.sql\n")


@committed("shop")
async def test_schema_that_importers_rely_on(application: Application, tmp_path: Path) -> None:
    await application.initialize()
    settings = {
        "CARRYOUT_DATABASE_URL": application.url,
        "CARRYOUT_DATASETS_DIR": str(application.directory),
        "CARRYOUT_USER_ID_TYPE": "bigint",
    }
    connection = await asyncpg.connect(application.url)
    datasets = await load_datasets(connection, application.directory, user_id_type="bigint", forbidden=())
    await connection.close()
    schema = tmp_path / "schema.json"
    schema.write_bytes(load_schema(datasets).body)
    assert await run("check", "--against", schema, **settings) == (0, "", "")
    gone = next(path for path in application.directory.glob("*.sql") if path.stem != "profile")
    gone.unlink()
    status, out, err = await run("check", "--against", schema, **settings)
    assert (status, out, err) == (1, f"Section {gone.stem} is gone\n", "")
    schema.write_text('{"properties": []}')
    status, _, err = await run("check", "--against", schema, **settings)
    assert (status, err) == (2, f"carryout: --against: {schema} is not a schema from /api/export/schema\n")
