"""A profile with a locale."""

import shutil
from pathlib import Path

import msgspec

from service.settings import Settings
from service.user_ids import UserId
from tests.support.factories import Connection, create_user

PROFILE = "SELECT id, email, name AS locale FROM public.users WHERE id = $1\n"


def with_locales(settings: Settings, folder: Path) -> Settings:
    """The settings with a copy of the datasets in `folder`, whose profile gives users' names as their locales."""
    shutil.copytree(settings.datasets_dir, folder)
    (folder / "profile.sql").write_text(PROFILE)
    return msgspec.structs.replace(settings, datasets_dir=str(folder))


async def create_user_of(connection: Connection, locale: str) -> UserId:
    user_id = await create_user(connection)
    await connection.execute("UPDATE public.users SET name = $2 WHERE id = $1", user_id, locale)
    return user_id
