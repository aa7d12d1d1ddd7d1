"""The manifests fit Kubernetes, the settings, the routes and the code's own times."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate  # type: ignore[import-untyped] # it comes without types
import msgspec
import pytest
import yaml

from devstack.roles import OWNER, SERVICE
from devstack.sample import READER
from service.api.app import ROUTES
from service.backends.database import MIGRATION_URL
from service.readiness import CHECK_TIMEOUT_SECONDS, SERVERS
from service.settings import PREFIX, Settings, from_env
from tests.deploy.manifests import (
    DEPLOY,
    OVERLAY,
    SECRETS,
    Manifests,
    container,
    pod,
    secret_values,
    secrets_of,
)
from tests.test_settings import SECRET
from worker.main import CLEAN_UP_SECONDS

KUBERNETES = "1.37"
CLOSE_SECONDS = 15
LABELS = "app.kubernetes.io/name", "app.kubernetes.io/component"
FIELDS = {f"{PREFIX}{field.name.upper()}": field for field in msgspec.structs.fields(Settings)}
SOURCES = sorted((DEPLOY / "kustomize").rglob("*.yaml"))


@pytest.fixture(scope="session")
def settings(manifests: Manifests) -> Settings:
    """The settings of a process started by the manifests. The secrets look like the example's."""
    return from_env(manifests.settings | secret_values() | {"CARRYOUT_LINK_SECRETS": SECRET})


def test_each_fits_its_schema(manifests: Manifests) -> None:
    for item in manifests.documents:
        assert kubernetes_validate.validate(item, KUBERNETES, strict=True) == KUBERNETES


def test_no_name_is_given_twice(manifests: Manifests) -> None:
    names = [(item["kind"], item["metadata"]["name"]) for item in manifests.documents]
    assert len(names) == len(set(names))


def test_settings_are_ours_and_complete(manifests: Manifests, settings: Settings) -> None:
    given = manifests.settings.keys() | secret_values().keys()
    assert given <= FIELDS.keys()
    assert {name for name, field in FIELDS.items() if field.required} <= given
    assert settings.worker_metrics_port


def test_secrets_are_referred_to(manifests: Manifests) -> None:
    assert not manifests.of("Secret")
    assert not manifests.settings.keys() & secret_values().keys()
    for workload in manifests.workloads:
        settings, *_ = container(workload)["envFrom"]
        assert settings == {"configMapRef": {"name": "carryout-settings"}}
        assert "env" not in container(workload)


def test_the_migration_alone_gets_its_role(manifests: Manifests, settings: Settings) -> None:
    """Its password in another pod's environment would make the serving role the owner of the trail again."""
    for workload in manifests.workloads:
        migrates = workload["metadata"]["name"] == "carryout-migrate"
        assert secrets_of(workload) == (["carryout", "carryout-migration"] if migrates else ["carryout"])
    (name,) = secret_values("carryout-migration")
    assert name == MIGRATION_URL
    migrating, serving, reading = (
        urlsplit(url)
        for url in (secret_values("carryout-migration")[name], settings.database_url, settings.source_database_url)
    )
    assert (migrating.hostname, migrating.path) == (serving.hostname, serving.path)
    assert (migrating.username, serving.username, reading.username) == (OWNER, SERVICE, READER)
    assert settings.schema_owner == OWNER


@pytest.mark.parametrize(
    ("secret", "name"),
    [(secret, name) for secret in SECRETS for name in secret_values(secret) if name.endswith("_DATABASE_URL")],
)
def test_connections_to_databases_are_encrypted_and_verified(secret: str, name: str) -> None:
    query = parse_qs(urlsplit(secret_values(secret)[name]).query, strict_parsing=True)
    # Else asyncpg looks for the authorities in a home, which the image's account hasn't.
    assert query == {"sslmode": ["verify-full"], "sslrootcert": ["/etc/ssl/certs/ca-certificates.crt"]}


def test_connections_to_redis_and_mail_are_encrypted(settings: Settings) -> None:
    assert settings.redis_url.startswith("rediss://")
    assert "starttls=never" not in settings.smtp_url


def test_clients_behind_the_ingress_have_addresses_of_their_own(manifests: Manifests, settings: Settings) -> None:
    """Without trusted proxies every event of the trail would name the Ingress."""
    assert manifests.of("Ingress")
    assert settings.trusted_proxies


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_secrets_are_not_in_the_manifests(manifests: Manifests, name: str) -> None:
    """By its name, or because it is a URL with room for a password."""
    secret = any(word in name for word in ("SECRET", "ACCESS_KEY", "DATABASE_URL", "REDIS_URL", "SMTP_URL"))
    assert not (secret and name in manifests.settings)
    assert not urlsplit(manifests.settings.get(name, "")).password


def test_service_links_make_no_settings(manifests: Manifests) -> None:
    """A Service called carryout gives every pod CARRYOUT_PORT and more, which the start refuses as no settings."""
    assert any(item["metadata"]["name"] == "carryout" for item in manifests.of("Service"))
    for workload in manifests.workloads:
        assert pod(workload)["enableServiceLinks"] is False


def test_pods_may_do_little(manifests: Manifests) -> None:
    for workload in manifests.workloads:
        spec = pod(workload)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        account = manifests.get("ServiceAccount", spec["serviceAccountName"])
        assert account["automountServiceAccountToken"] is False
        assert container(workload)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container(workload)["resources"].keys() == {"requests", "limits"}
        is_worker = workload["metadata"]["name"] == "carryout-worker"
        assert spec.get("volumes", []) == ([{"name": "tmp", "emptyDir": {}}] if is_worker else [])


def test_workers_have_a_folder_for_temporary_files(manifests: Manifests) -> None:
    worker = manifests.get("Deployment", "carryout-worker")
    assert container(worker)["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]


def test_probes_are_routes(manifests: Manifests, settings: Settings) -> None:
    paths = {route.path for route in ROUTES}
    api = container(manifests.get("Deployment", "carryout-api"))
    assert _probed(api) == {("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz")}
    assert {path for _, path in _probed(api)} <= paths
    query = parse_qs(urlsplit(api["readinessProbe"]["httpGet"]["path"]).query, strict_parsing=True)
    assert query == {"exclude": ["redis", "s3"]}
    assert set(query["exclude"]) < set(SERVERS)
    assert api["readinessProbe"]["timeoutSeconds"] > CHECK_TIMEOUT_SECONDS
    assert api["args"][-2:] == ["--port", str(_port(api, "http"))]

    worker = container(manifests.get("Deployment", "carryout-worker"))
    assert _probed(worker) == {("startup", "/livez"), ("liveness", "/livez")}
    assert _port(worker, "metrics") == settings.worker_metrics_port


def _probed(found: dict[str, Any]) -> set[tuple[str, str]]:
    probes = {key.removesuffix("Probe"): found[key]["httpGet"] for key in found if key.endswith("Probe")}
    for probe in probes.values():
        assert probe["port"] in {port["name"] for port in found["ports"]}
    return {(kind, urlsplit(probe["path"]).path) for kind, probe in probes.items()}


def _port(found: dict[str, Any], name: str) -> int:
    (number,) = [port["containerPort"] for port in found["ports"] if port["name"] == name]
    return int(number)


def test_an_end_is_given_its_time(manifests: Manifests, settings: Settings) -> None:
    api = pod(manifests.get("Deployment", "carryout-api"))["terminationGracePeriodSeconds"]
    assert api == settings.drain_seconds + settings.shutdown_grace_seconds + CLOSE_SECONDS
    worker = pod(manifests.get("Deployment", "carryout-worker"))["terminationGracePeriodSeconds"]
    assert worker == settings.worker_grace_seconds + 2 * CLEAN_UP_SECONDS + CLOSE_SECONDS


def test_an_update_drops_no_request(manifests: Manifests, settings: Settings) -> None:
    api = manifests.get("Deployment", "carryout-api")
    assert api["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    readiness = container(api)["readinessProbe"]
    assert settings.drain_seconds >= readiness["periodSeconds"] * readiness["failureThreshold"]


def test_selectors_find_their_pods(manifests: Manifests) -> None:
    pods = [_labels(workload["spec"]["template"]) for workload in manifests.workloads]
    for item in manifests.documents:
        for selector in _selectors(item):
            assert any(selector.items() <= labels.items() for labels in pods), item["metadata"]["name"]
    for workload in manifests.of("Deployment"):
        selector = workload["spec"]["selector"]["matchLabels"]
        assert selector == _labels(workload) == _labels(workload["spec"]["template"])
        assert selector.keys() == set(LABELS)


def _labels(item: dict[str, Any]) -> dict[str, str]:
    labels: dict[str, str] = item["metadata"]["labels"]
    return labels


def _selectors(item: dict[str, Any]) -> list[dict[str, str]]:
    match item["kind"]:
        case "Service":
            return [item["spec"]["selector"]]
        case "PodDisruptionBudget" | "Deployment":
            return [item["spec"]["selector"]["matchLabels"]]
        case "NetworkPolicy":
            return [item["spec"]["podSelector"]["matchLabels"]]
        case _:
            return []


def test_each_deployment_is_scaled_and_kept_up(manifests: Manifests) -> None:
    for deployment in manifests.of("Deployment"):
        name = deployment["metadata"]["name"]
        assert "replicas" not in deployment["spec"]
        scaler = manifests.get("HorizontalPodAutoscaler", name)
        assert scaler["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        assert scaler["spec"]["minReplicas"] >= 2
        assert manifests.get("PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1
        assert len(pod(deployment)["topologySpreadConstraints"]) == 2


def test_all_traffic_is_denied_but_what_is_named(manifests: Manifests, settings: Settings) -> None:
    everything = manifests.get("NetworkPolicy", "carryout-deny")["spec"]
    assert everything["policyTypes"] == ["Ingress", "Egress"]
    assert everything.keys() == {"podSelector", "policyTypes"}
    for workload in manifests.workloads:
        labels = _labels(workload["spec"]["template"])
        assert everything["podSelector"]["matchLabels"].items() <= labels.items()

    opened = {
        port["port"]
        for policy in manifests.of("NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        for port in rule["ports"]
    }
    urls = settings.database_url, settings.source_database_url, settings.redis_url, settings.smtp_url
    assert opened == {53, 443} | {urlsplit(url).port for url in urls}
    assert settings.jwt_jwks_url.startswith("https://")


def test_the_ingress_hides_what_is_not_for_users(manifests: Manifests, settings: Settings) -> None:
    ingress = manifests.get("Ingress", "carryout")
    (rule,) = ingress["spec"]["rules"]
    assert f"https://{rule['host']}" == settings.public_url
    opened = {(path["path"], path["pathType"]) for path in rule["http"]["paths"]}
    assert opened == {("/", "Exact"), ("/embedded", "Exact"), ("/assets", "Prefix"), ("/api", "Prefix")}
    routes = {route.path for route in ROUTES if not route.path.startswith(("/api/", "/assets/"))}
    inside = routes - {"/", "/embedded"}
    assert inside == {"/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/{name}"}
    (name,) = {path["backend"]["service"]["name"] for path in rule["http"]["paths"]}
    (port_name,) = {path["backend"]["service"]["port"]["name"] for path in rule["http"]["paths"]}
    (port,) = manifests.get("Service", name)["spec"]["ports"]
    assert port["name"] == port_name
    assert port["targetPort"] in {
        item["name"] for item in container(manifests.get("Deployment", "carryout-api"))["ports"]
    }


def test_every_file_belongs_to_a_kustomization() -> None:
    for path in SOURCES:
        kustomization = yaml.safe_load((path.parent / "kustomization.yaml").read_text())
        assert path.name in {"kustomization.yaml", *kustomization["resources"]}
    assert OVERLAY / "kustomization.yaml" in SOURCES
