"""The manifests as a cluster gets them.

Kustomize is one binary, in no package registry of ours, and a test may not depend on what a machine happens to have. So
the manifests use only the part of it that is repeated here, and what is beyond it is refused: a test fails rather than
looks at something else than `kubectl kustomize` would render.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
OVERLAY = DEPLOY / "kustomize" / "overlays" / "example"

# The examples of the Secrets, by name.
SECRETS = {"carryout": "secret.env.example", "carryout-migration": "migration.env.example"}

Manifest = dict[str, Any]


class Manifests:
    def __init__(self, documents: list[Manifest]) -> None:
        self.documents = documents

    def get(self, kind: str, name: str) -> Manifest:
        (found,) = [item for item in self.of(kind) if item["metadata"]["name"] == name]
        return found

    def of(self, kind: str) -> list[Manifest]:
        return [item for item in self.documents if item["kind"] == kind]

    @property
    def workloads(self) -> list[Manifest]:
        return self.of("Deployment") + self.of("Job")

    @property
    def settings(self) -> dict[str, str]:
        settings: dict[str, str] = self.get("ConfigMap", "carryout-settings")["data"]
        return settings


def render(folder: Path) -> Manifests:
    """The output of `kubectl kustomize`, but for the hash in a generated name."""
    given = yaml.safe_load((folder / "kustomization.yaml").read_text())
    del given["apiVersion"], given["kind"]
    rendered = Manifests([item for name in given.pop("resources") for item in _load(folder / name)])
    for generated in given.pop("configMapGenerator", []):
        _generate(rendered, **generated)
    for image in given.pop("images", []):
        _rename(rendered, **image)
    if namespace := given.pop("namespace", None):
        for item in rendered.documents:
            item["metadata"]["namespace"] = namespace
    assert not given, f"the tests don't know how Kustomize does {', '.join(given)}"
    return rendered


def container(workload: Manifest) -> Manifest:
    """The only one of its pods."""
    (only,) = pod(workload)["containers"]
    found: Manifest = only
    return found


def pod(workload: Manifest) -> Manifest:
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def secret_values(name: str = "carryout") -> dict[str, str]:
    """The contents that the Secret needs. The values only look real."""
    lines = (DEPLOY / "kustomize" / SECRETS[name]).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def secrets_of(workload: Manifest) -> list[str]:
    """The names of the Secrets that its pods get."""
    return [source["secretRef"]["name"] for source in container(workload)["envFrom"] if "secretRef" in source]


def _load(path: Path) -> Iterator[Manifest]:
    if path.is_dir():
        yield from render(path).documents
    else:
        yield from yaml.safe_load_all(path.read_text())


def _generate(rendered: Manifests, name: str, literals: list[str], behavior: str = "create") -> None:
    data = {key: value for key, _, value in (literal.partition("=") for literal in literals)}
    if behavior == "merge":
        rendered.get("ConfigMap", name)["data"].update(data)
    else:
        assert behavior == "create"
        rendered.documents.append(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data},
        )


def _rename(rendered: Manifests, name: str, newName: str, newTag: str) -> None:  # noqa: N803 (Kustomize's words)
    for workload in rendered.workloads:
        if container(workload)["image"] == name:
            container(workload)["image"] = f"{newName}:{newTag}"
