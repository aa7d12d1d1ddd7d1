"""Loads all objects at once and writes them into a StringIO, as most tutorials and services do."""

import csv
import io
from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from bench.peers.models import User
from bench.peers.table import COLUMNS, DATABASE_URL

engine = create_engine(DATABASE_URL.replace("postgresql://", "postgresql+psycopg://"))
app = FastAPI()


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


@app.get("/")
def export(session: Annotated[Session, Depends(get_session)]) -> StreamingResponse:
    users = session.scalars(select(User).order_by(User.id)).all()
    output = io.StringIO()
    writer = csv.writer(output)
    writer.writerow(COLUMNS)
    for user in users:
        writer.writerow([getattr(user, name) for name in COLUMNS])
    return StreamingResponse(iter([output.getvalue()]), media_type="text/csv")
