"""The image is built of what the repository pins, for the versions it supports, and for the account the pods run as.

`python -m tests.deploy.test_image` takes the excerpts in deploy/ from the development lock again.
"""

import json
import re
import tomllib

import pytest

from tests.deploy.manifests import DEPLOY, ROOT, Manifests, container, pod

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
FINAL_STAGE = DOCKERFILE.rpartition("\nFROM ")[2]
EXCERPTS = "build.lock", "otel.lock"
PINNED = re.compile(r"^(?P<name>[a-z0-9.-]+)(?:\[\S+\])?==(?:.*\\\n)+.*\n", re.MULTILINE)


def _pins(lock: str) -> dict[str, str]:
    return {match["name"]: match[0] for match in PINNED.finditer(lock)}


def _excerpt(name: str) -> str:
    """The lines of the development lock about the packages in deploy/`name`."""
    everything = _pins((ROOT / "requirements" / "dev.lock").read_text())
    return "".join(everything[package] for package in _pins((DEPLOY / name).read_text()))


def _instructions(word: str, text: str = DOCKERFILE) -> list[str]:
    return re.findall(rf"^{word} (.+)$", text, re.MULTILINE)


@pytest.mark.parametrize("name", EXCERPTS)
def test_an_excerpt_is_up_to_date(name: str) -> None:
    assert (DEPLOY / name).read_text() == _excerpt(name)


def test_excerpts_have_what_they_are_for() -> None:
    assert "hatchling" in _pins((DEPLOY / "build.lock").read_text())
    wanted = {re.split(r"[<>=]", requirement)[0] for requirement in PROJECT["optional-dependencies"]["otel"]}
    assert wanted <= _pins((DEPLOY / "otel.lock").read_text()).keys()


def test_only_pinned_packages_are_installed() -> None:
    installs = re.findall(r" install (.*?)(?: \\)?$", DOCKERFILE, re.MULTILINE)
    assert installs
    assert all("--require-hashes" in install or "--no-index" in install for install in installs)
    assert 'ARG LOCKS="requirements/runtime.lock"' in DOCKERFILE


def test_python_is_one_we_support() -> None:
    (version,) = re.findall(r"^ARG PYTHON_IMAGE=python:(.+)-slim$", DOCKERFILE, re.MULTILINE)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


@pytest.mark.parametrize("page", ["README.md", "docs/operations.md"])
def test_the_documentation_claims_no_more_pinning_than_there_is(page: str) -> None:
    """The packages are; the base image is a tag, unless the builder gives a digest."""
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE, re.MULTILINE)
    assert {line.split()[0] for line in _instructions("FROM")} == {"${PYTHON_IMAGE}"}
    text = " ".join((ROOT / page).read_text().split())
    assert "image is pinned by hash" not in text
    assert ("PYTHON_IMAGE" in text) == ("@sha256:" not in base)


def test_versions_agree(manifests: Manifests) -> None:
    assert f"ARG VERSION={PROJECT['version']}\n" in DOCKERFILE
    for workload in manifests.workloads:
        assert container(workload)["image"] == f"registry.example.com/carryout:{PROJECT['version']}"


def test_the_licence_is_the_projects() -> None:
    assert f'image.licenses="{PROJECT["license"]}"' in DOCKERFILE


def test_the_account_is_the_pods(manifests: Manifests) -> None:
    (account,) = _instructions("USER", FINAL_STAGE)
    for workload in manifests.workloads:
        security = pod(workload)["securityContext"]
        assert account == f"{security['runAsUser']}:{security['runAsGroup']}"
        assert security["runAsUser"] > 0


def test_signals_reach_the_command() -> None:
    """The exec form: a shell in between would keep SIGTERM to itself."""
    (entrypoint,) = map(json.loads, _instructions("ENTRYPOINT", FINAL_STAGE))
    assert set(entrypoint) <= PROJECT["scripts"].keys()
    assert len(json.loads(*_instructions("CMD", FINAL_STAGE))) > 1


def test_the_builder_gets_what_is_copied_alone() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    sources = [source for line in _instructions("COPY") for source in line.split()[:-1]]
    assert "*" in ignored
    assert allowed == {source for source in sources if not source.startswith(("--from", "/opt"))}
    assert all((ROOT / source).exists() for source in allowed)


def test_the_wheel_has_its_packages() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["packages"]) <= {line.split()[0] for line in _instructions("COPY")}


if __name__ == "__main__":
    for lock in EXCERPTS:
        (DEPLOY / lock).write_text(_excerpt(lock))
