"""The image, the compose file and the values of Dagster's chart: of a known shape, pinned, and without a secret."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from expirytrack_dagster.instance import prepare, shipped
from expirytrack_dagster.settings import Settings, load_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
PINNED = re.compile(r"[\w./-]+:[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}")
OURS = "expirytrack:0.1.0"
FOREIGN = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL", "PGPASSWORD", "DAGSTER_HOME"}
"""What others than this program read of the environment that it is given."""
SECRET = re.compile(r"PASSWORD|PASSPHRASE|SECRET|TOKEN|ACCESS_KEY")

_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _TEXT}
_TIME = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}
COMPOSE: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "patternProperties": {"^x-": {}},
    "required": ["name", "services", "volumes", "configs"],
    "properties": {
        "name": _TEXT,
        "volumes": {"type": "object", "additionalProperties": {"type": "null"}},
        "configs": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["file"],
                "properties": {"file": _TEXT},
            },
        },
        "services": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["image", "restart", "volumes", "environment"],
                "properties": {
                    "image": _TEXT,
                    "build": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {"context": _TEXT, "dockerfile": _TEXT},
                    },
                    "restart": {"enum": ["no", "on-failure", "unless-stopped", "always"]},
                    "init": {"type": "boolean"},
                    "cap_drop": _TEXTS,
                    "security_opt": _TEXTS,
                    "stop_grace_period": _TIME,
                    "shm_size": {"type": "string", "pattern": r"^\d+[kmg]b$"},
                    "environment": {"type": "object", "additionalProperties": {"type": "string"}},
                    "volumes": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]+:/"}},
                    "configs": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["source", "target"],
                            "properties": {"source": _TEXT, "target": _TEXT},
                        },
                    },
                    "command": _TEXTS,
                    "entrypoint": _TEXTS,
                    "profiles": _TEXTS,
                    "ports": {"type": "array", "items": {"type": "string", "pattern": r"^127\.0\.0\.1:\d+:\d+$"}},
                    "depends_on": {
                        "type": "object",
                        "additionalProperties": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["condition"],
                            "properties": {
                                "condition": {"enum": ["service_healthy", "service_completed_successfully"]}
                            },
                        },
                    },
                    "healthcheck": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["test", "interval", "timeout", "retries"],
                        "properties": {
                            "test": {
                                "type": "array",
                                "prefixItems": [{"enum": ["CMD", "CMD-SHELL"]}],
                                "items": _TEXT,
                                "minItems": 2,
                            },
                            "interval": _TIME,
                            "timeout": _TIME,
                            "start_period": _TIME,
                            "retries": {"type": "integer"},
                        },
                    },
                },
            },
        },
    },
}
"""The parts of the Compose specification that the file uses, no more allowed than they allow."""

_CONTEXT = {
    "runAsNonRoot": bool,
    "runAsUser": int,
    "allowPrivilegeEscalation": bool,
    "capabilities": {"drop": [str]},
    "seccompProfile": {"type": str},
}
_PURGE = {"skipped": int, "success": int, "failure": int}
_IMAGE = {"repository": str, "tag": str, "pullPolicy": str}
CHART: dict[str, Any] = {
    "global": {"postgresqlSecretName": str},
    "generatePostgresqlPasswordSecret": bool,
    "telemetry": {"enabled": bool},
    "postgresql": {
        "enabled": bool,
        "postgresqlHost": str,
        "postgresqlUsername": str,
        "postgresqlDatabase": str,
        "postgresqlScheme": str,
        "service": {"port": int},
    },
    "dagsterWebserver": {"image": _IMAGE},
    "dagsterDaemon": {
        "image": _IMAGE,
        "runMonitoring": {
            "enabled": bool,
            "startTimeoutSeconds": int,
            "pollIntervalSeconds": int,
            "maxResumeRunAttempts": int,
        },
        "runRetries": {"enabled": bool, "maxRetries": int, "retryOnAssetOrOpFailure": bool},
    },
    "concurrency": {
        "enabled": bool,
        "pools": {"defaultLimit": int, "granularity": str},
        "runs": {"maxConcurrentRuns": int},
    },
    "runLauncher": {
        "type": str,
        "config": {
            "k8sRunLauncher": {"imagePullPolicy": str, "failPodOnRunFailure": bool, "securityContext": _CONTEXT}
        },
    },
    "retention": {"enabled": bool, "sensor": {"purgeAfterDays": _PURGE}, "schedule": {"purgeAfterDays": _PURGE}},
    "computeLogManager": {"type": str},
    "dagster-user-deployments": {
        "enabled": bool,
        "deployments": [
            {
                "name": str,
                "image": _IMAGE,
                "codeServerArgs": [str],
                "port": int,
                "includeConfigInLaunchedRuns": {"enabled": bool},
                "env": [{"name": str, "value": str, "valueFrom": {"secretKeyRef": {"name": str, "key": str}}}],
                "envSecrets": [{"name": str}],
                "podSecurityContext": {"fsGroup": int},
                "securityContext": _CONTEXT,
                "volumes": [{"name": str, "emptyDir": dict}],
                "volumeMounts": [{"name": str, "mountPath": str}],
            }
        ],
    },
}
"""Of the keys that the chart of Dagster 1.13 knows (`values.yaml` and schema in its helm/dagster), those in use, with
the types of their values."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """Return the compose file, its anchors followed."""
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    """Return the values of the chart."""
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "values.yaml").read_text(encoding="utf-8"))
    return content


def test_the_compose_file_is_one(compose: dict[str, Any]) -> None:
    """It is of the specification's shape, and every name that it uses is defined in it."""
    jsonschema.Draft202012Validator(COMPOSE).validate(compose)
    for service in compose["services"].values():
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        assert {volume.partition(":")[0] for volume in service["volumes"]} <= set(compose["volumes"])
        assert {config["source"] for config in service.get("configs", [])} <= set(compose["configs"])
    for config in compose["configs"].values():
        assert (DEPLOY / config["file"]).is_file()
    for name in ("code", "webserver", "daemon", "postgres", "objects"):
        assert "healthcheck" in compose["services"][name]


def test_images_are_pinned_by_digest(compose: dict[str, Any]) -> None:
    """All but the one that is built here."""
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    bases = re.findall(r"^ARG PYTHON=(\S+)$", dockerfile, re.MULTILINE)
    images = {service["image"] for service in compose["services"].values() if "build" not in service}
    assert all(PINNED.fullmatch(image) for image in [*images, *bases])
    assert len(bases) == 1
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {"${PYTHON}"}
    assert {service["image"] for service in compose["services"].values() if "build" in service} == {OURS}


def test_no_secret_stands_in_the_compose_file(compose: dict[str, Any]) -> None:
    """Each comes from outside; without one that is needed nothing starts, and it is said where to read on."""
    for service in compose["services"].values():
        for name, value in service["environment"].items():
            if SECRET.search(name):
                assert re.fullmatch(r"\$\{[A-Z_]+(:\?[^}]*deploy/README\.md|:-)\}", value), name
            if value.startswith("postgresql"):
                load_settings(dagster=value)  # which takes no password


def test_the_environment_is_settings_of_ours(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name is one that this program, libpq, an object store's client or Dagster reads, and the values fit."""
    given = compose["services"]["code"]["environment"]
    ours = {name for name in given if name not in FOREIGN}
    assert {name.removeprefix("EXPIRYTRACK_").lower() for name in ours} <= Settings.model_fields.keys()
    for name in ours:
        monkeypatch.setenv(name, re.sub(r"\$\{\w+(?::-|:\?)([^}]*)\}", r"\1", given[name]))
    settings = load_settings()
    assert settings.state_address.kind == "postgresql"
    assert str(settings.address).startswith("ducklake:postgres:")
    assert str(settings.dagster_server).endswith("@postgres:5432/expirytrack")


def test_containers_have_little_power(compose: dict[str, Any]) -> None:
    """They run as a user of the image's who may nothing, and only this machine reaches the one port."""
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^USER 10001:10001$", dockerfile, re.MULTILINE)
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:3000:3000"]
    for service in compose["services"].values():
        if "build" in service:
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_image_is_made_of_what_is_listed() -> None:
    """Nothing else of a developer's folder gets near it, and what the Dockerfile copies is there."""
    listed = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")
    kept = [line.removeprefix("!") for line in listed if line.startswith("!")]
    assert "*" in listed
    assert all((DEPLOY.parent / name).exists() for name in kept)
    assert {"pyproject.toml", "README.md", "requirements.txt", "dagster.yaml", "workspace.yaml"} <= set(kept)


def test_the_image_leaves_developers_packages_out() -> None:
    """What the program and its extra need stays, whatever else the lock has goes."""
    surplus = set(runpy.run_path(str(DEPLOY / "slim.py"))["surplus"]())
    assert {"pytest", "ruff", "mypy", "moto", "hypothesis"} <= surplus
    needed = {"dagster", "dagster-postgres", "psycopg2-binary", "duckdb-extension-ducklake", "sqlalchemy", "pip"}
    assert not needed & surplus


def test_dagsters_configuration_is_what_the_program_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the command line, inside a container, finds it as it wants it."""
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("EXPIRYTRACK_DAGSTER", "postgresql://expirytrack@postgres:5432/expirytrack")
    written = prepare(load_settings()) / "dagster.yaml"
    assert (DEPLOY / "dagster.yaml").read_bytes() == written.read_bytes()
    assert written.read_bytes().startswith(shipped("dagster.yaml").read_bytes())


def test_the_chart_knows_all_values(values: dict[str, Any]) -> None:
    """A key that it does not know would be ignored in silence, or refused by its schema."""
    _fits(values, CHART, "values")
    (location,) = values["dagster-user-deployments"]["deployments"]
    assert values["runLauncher"]["type"] == "K8sRunLauncher"
    assert values["postgresql"]["enabled"] is False
    assert location["codeServerArgs"] == ["--module-name", "expirytrack_dagster.definitions"]
    versions = {values[part]["image"]["tag"] for part in ("dagsterWebserver", "dagsterDaemon")}
    assert versions == {"1.13.27"}


def test_the_values_say_what_the_instance_says(values: dict[str, Any]) -> None:
    """What one machine's dagster.yaml sets, the chart is told in its own words; a run has as little power as code."""
    instance = yaml.safe_load((DEPLOY / "dagster.yaml").read_text(encoding="utf-8"))
    assert values["telemetry"] == instance["telemetry"]
    for kind in ("sensor", "schedule"):
        assert values["retention"][kind]["purgeAfterDays"] == instance["retention"][kind]["purge_after_days"]
    pools, told = instance["concurrency"], values["concurrency"]
    assert told["pools"] == {
        "defaultLimit": pools["pools"]["default_limit"],
        "granularity": pools["pools"]["granularity"],
    }
    assert told["runs"]["maxConcurrentRuns"] == pools["runs"]["max_concurrent_runs"]
    retries, wanted = values["dagsterDaemon"]["runRetries"], instance["run_retries"]
    assert (retries["maxRetries"], retries["retryOnAssetOrOpFailure"]) == (
        wanted["max_retries"],
        wanted["retry_on_asset_or_op_failure"],
    )
    (location,) = values["dagster-user-deployments"]["deployments"]
    assert values["runLauncher"]["config"]["k8sRunLauncher"]["securityContext"] == location["securityContext"]


def test_the_home_of_a_pod_is_made_by_the_program(values: dict[str, Any]) -> None:
    """A volume's own folder belongs to root, and nobody else can close it to others: the home lies below it."""
    (location,) = values["dagster-user-deployments"]["deployments"]
    (home,) = (entry["value"] for entry in location["env"] if entry["name"] == "EXPIRYTRACK_HOME")
    assert Path(home).parent in {Path(mount["mountPath"]) for mount in location["volumeMounts"]}


def test_no_secret_stands_in_the_values(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are named, and what stands there are settings that fit."""
    (location,) = values["dagster-user-deployments"]["deployments"]
    for entry in location["env"]:
        if SECRET.search(entry["name"]):
            assert set(entry) == {"name", "valueFrom"}
        elif entry["name"] not in FOREIGN:
            monkeypatch.setenv(entry["name"], entry["value"])
    names = {entry["name"] for entry in location["env"]} - FOREIGN
    assert {name.removeprefix("EXPIRYTRACK_").lower() for name in names} <= Settings.model_fields.keys()
    assert load_settings().state_address.kind == "postgresql"


def _fits(found: Any, known: Any, place: str) -> None:
    if isinstance(known, type):
        assert isinstance(found, known), place
    elif isinstance(known, list):
        for number, item in enumerate(found):
            _fits(item, known[0], f"{place}[{number}]")
    else:
        assert set(found) <= set(known), place
        for key, value in found.items():
            _fits(value, known[key], f"{place}.{key}")
