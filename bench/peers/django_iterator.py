"""Follows Django's page on large CSV files: a pseudo-buffer, and a chunk for each row."""

import csv
from urllib.parse import unquote, urlsplit

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import models
from django.http import HttpRequest, StreamingHttpResponse
from django.urls import path

from bench.peers.table import COLUMNS, DATABASE_URL

address = urlsplit(DATABASE_URL)
settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1"],
    USE_TZ=True,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": address.hostname,
            "PORT": address.port,
            "USER": address.username,
            "PASSWORD": unquote(address.password or ""),
            "NAME": address.path.removeprefix("/"),
            "CONN_MAX_AGE": None,
        }
    },
)
django.setup()


class User(models.Model):
    id = models.BigAutoField(primary_key=True, db_column="internal_id")
    email = models.TextField()
    name = models.TextField()
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    is_active = models.BooleanField()
    is_admin = models.BooleanField()

    class Meta:  # noqa: D106 (Django's word for options)
        app_label = "bench"
        db_table = "users"
        managed = False

    def __str__(self) -> str:
        return self.email


class Echo:
    """Returns each line instead of storing it."""

    def write(self, line: str) -> str:
        return line


def export(_request: HttpRequest) -> StreamingHttpResponse:
    writer = csv.writer(Echo())
    users = User.objects.order_by("id").values_list(*COLUMNS).iterator()
    lines = (writer.writerow(row) for rows in ([COLUMNS], users) for row in rows)
    return StreamingHttpResponse(lines, content_type="text/csv")


urlpatterns = [path("", export)]
app = WSGIHandler()
