"""A user's export as a file in S3, as most services begin: the session, boto3 and csv of the documentation, in threads.

`POST /exports/{user_id}` answers `201` with a presigned link. It counts no records, keeps no trail, and holds no user
to one export at a time.
"""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

import boto3
from fastapi import Depends, FastAPI, status
from sqlalchemy import TIMESTAMP, MetaData, create_engine, select
from sqlalchemy.dialects.postgresql import INET, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from bench.peers.table import DATABASE_URL

BUCKET = os.environ["S3_BUCKET"]


class Base(DeclarativeBase):
    metadata = MetaData(schema="public")  # the role's own schema is Carryout's


class Job(Base):
    __tablename__ = "peer_jobs"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    status: Mapped[str]


class User(Base):
    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))


class Activity(Base):
    __tablename__ = "activity"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    kind: Mapped[str]
    ip: Mapped[str] = mapped_column(INET)
    detail: Mapped[dict[str, Any]] = mapped_column(JSONB)
    occurred_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))


engine = create_engine(DATABASE_URL.replace("postgresql://", "postgresql+psycopg://"), pool_size=16)
Base.metadata.create_all(engine)  # the others are the sample's
storage = boto3.client("s3")
app = FastAPI()


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


@app.post("/exports/{user_id}", status_code=status.HTTP_201_CREATED)
def export(user_id: UUID, session: Annotated[Session, Depends(get_session)]) -> dict[str, str]:
    job = Job(id=uuid4(), user_id=user_id, status="processing")
    session.add(job)
    session.commit()
    user = session.scalars(select(User).where(User.id == user_id)).one()
    activity = session.scalars(select(Activity).where(Activity.user_id == user_id).order_by(Activity.id)).all()
    key = f"peer/{job.id}.csv"
    storage.put_object(Bucket=BUCKET, Key=key, Body=_write(user, activity), ContentType="text/csv")
    job.status = "completed"
    session.commit()
    link = storage.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": key})
    return {"job_id": str(job.id), "download_url": link}


def _write(user: User, activity: Sequence[Activity]) -> bytes:
    output = io.StringIO()
    writer = csv.writer(output)
    writer.writerow(["section", "email", "name", "id", "kind", "ip", "detail", "occurred_at"])
    writer.writerow(["profile", user.email, user.name, user.id, "", "", "", user.created_at])
    for each in activity:
        writer.writerow(["activity", "", "", each.id, each.kind, each.ip, each.detail, each.occurred_at])
    return output.getvalue().encode()
