"""A plugin for the tests of packages: Frictionless validates the manifest of each one that a test unpacks, each file
against its size and checksum, and each table against its schema.
"""

import io
import json
import tempfile
import zipfile
from pathlib import Path

from frictionless import Checklist, Package

from tests.documents.package import reading

# A row may be NULL in every column.
CHECKLIST = Checklist(skip_errors=["blank-row"])
read = reading.unpack


def validated(content: bytes) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(folder)
        manifest = json.loads((Path(folder) / "datapackage.json").read_bytes())
        for resource in manifest["resources"]:
            # No type means no table (Data Package 2.0); Frictionless guesses one by the file's name.
            resource.setdefault("type", "file")
        report = Package(manifest, basepath=folder).validate(checklist=CHECKLIST)
    assert report.valid, report.flatten(["name", "type", "message"])
    return read(content)


# Before the tests import it.
reading.unpack = validated
