"""The days of the week in their order: each leaves the installation as the next expects it."""

from typing import Final

from tests.week import days, restores, rotations
from tests.week.week import Day

DAYS: Final[dict[str, Day]] = {
    "log disk full": days.log_disk_full,
    "rolling deploy": days.rolling_deploy,
    "outages": days.outages,
    "PostgreSQL's disk full": days.postgresql_disk_full,
    "reader's password changed": days.readers_password_changed,
    "wrong clock": days.wrong_clock,
    "lost file": days.lost_file,
    "a user asks": days.user_asks,
    "bucket moved": restores.moved_bucket,
    "link secrets rotated": rotations.rotate_link_secrets,
    "JWT secret rotated": rotations.rotate_jwt_secret,
    "public key rotated": rotations.rotate_public_key,
    "serving role rotated": rotations.rotate_serving_role,
    "reader rotated": rotations.rotate_reader,
    "Redis password rotated": rotations.rotate_redis_password,
    "S3 key rotated": rotations.rotate_s3_key,
    "SMTP password rotated": rotations.rotate_smtp_password,
    "restore drill": restores.restore_drill,
}
