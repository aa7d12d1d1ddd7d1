"""`carryout init` and `carryout check`, run as they are run."""

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from onboarding.checking import Findings
from service.settings import SQL_DIR
from tests.onboarding.conftest import Application, committed


async def run(*arguments: str | Path, **environ: str) -> tuple[int, str, str]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service.cli", *arguments),
        env={"PATH": os.environ["PATH"], **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=SQL_DIR.parent,
    )
    out, err = await child.communicate()
    assert child.returncode is not None
    return child.returncode, out.decode(), err.decode()


@committed("shop")
async def test_from_a_schema_to_decided_datasets(application: Application) -> None:
    status, out, err = await run("init", application.url, "--out", application.directory)
    assert (status, err) == (0, "")
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
    assert (status, out) == (0, "Everything that points to the user is decided.\n")

    status, out, err = await run("check", "--grants", "--role", "shop_reader", **settings)
    assert (status, err) == (0, "")
    assert out.startswith("CREATE ROLE shop_reader LOGIN PASSWORD '…';\nGRANT USAGE ON SCHEMA public TO shop_reader;\n")


@committed("social")
async def test_a_wrong_question_is_refused_in_a_sentence(application: Application) -> None:
    status, _, err = await run("init", application.url, "--out", application.directory, "--own", "email")
    assert (status, err) == (2, "carryout: public.users.email is no foreign key, so it leads nowhere\n")
    for wrong in ("postgresql://127.0.0.1:1/none", "mysql://x", f"{application.url}_none"):
        status, _, err = await run("init", wrong, "--out", application.directory)
        assert (status, err.count("\n")) == (2, 1)
        assert err.startswith("carryout: ")
        assert "DSN" in err
    application.directory.mkdir()
    status, _, err = await run("check", application.url, "--datasets", application.directory)
    assert (status, err) == (2, f"carryout: {application.directory} holds no profile.sql\n")
    status, _, err = await run("check", application.url, "--datasets", application.directory, "--grants")
    assert (status, err) == (2, f"carryout: {application.directory} holds no profile.sql\n")
    status, _, err = await run("init", application.url, "--out", Path(__file__) / "datasets")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("carryout: --out: ")


@committed("shop")
async def test_takes_the_settings_of_a_file(application: Application, tmp_path: Path) -> None:
    status, _, err = await run("check", "--datasets", tmp_path)
    assert (status, err) == (
        2,
        "carryout: Which database? Give its DSN, or set CARRYOUT_SOURCE_DATABASE_URL or CARRYOUT_DATABASE_URL\n",
    )
    await application.initialize()
    settings = tmp_path / "settings.env"
    settings.write_text(f"CARRYOUT_DATABASE_URL={application.url}\nCARRYOUT_DATASETS_DIR={application.directory}\n")
    status, out, err = await run("check", "--env-file", settings)
    assert (status, err) == (1, "")
    assert "public.shop_profile.risk_score" in out
    status, _, err = await run("check", "--env-file", settings, CARRYOUT_DATASETS_DIR=str(tmp_path))
    assert (status, err) == (2, f"carryout: {tmp_path} holds no profile.sql\n")
