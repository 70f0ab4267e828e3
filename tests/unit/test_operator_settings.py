"""Settings from the environment, and the credentials that are derived from them."""

import pytest

from esft.errors import SpecError
from esft_operator.clients.credentials import run_password, run_url
from esft_operator.settings import OperatorSettings, WorkerDefaults

NEEDED = {"ESFT_REDIS_URL": "redis://redis:6379/0", "ESFT_CREDENTIALS_KEY": "key"}


def test_defaults() -> None:
    settings = OperatorSettings.from_environment(NEEDED)
    assert settings.namespaces == ()
    assert settings.workers == WorkerDefaults()
    assert (settings.metrics_port, settings.health_port) == (9090, 8080)


def test_everything_set() -> None:
    settings = OperatorSettings.from_environment(
        {
            **NEEDED,
            "ESFT_NAMESPACES": "a, b,",
            "ESFT_WORKER_IMAGE": "worker:2",
            "ESFT_WORKER_IMAGE_PULL_POLICY": "Never",
            "ESFT_WORKER_GRACE_SECONDS": "30",
            "ESFT_METRICS_PORT": "0",
            "ESFT_HEALTH_PORT": "1",
            "ESFT_RESYNC_SECONDS": "7.5",
            "ESFT_POLL_SECONDS": "0.2",
        }
    )
    assert settings.namespaces == ("a", "b")
    assert settings.workers == WorkerDefaults("worker:2", "Never", 30)
    assert (settings.metrics_port, settings.health_port) == (0, 1)
    assert (settings.resync_seconds, settings.poll_seconds) == (7.5, 0.2)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"ESFT_REDIS_URL": ""}, "ESFT_REDIS_URL"),
        ({"ESFT_CREDENTIALS_KEY": ""}, "ESFT_CREDENTIALS_KEY"),
        ({"ESFT_METRICS_PORT": "many"}, "ESFT_METRICS_PORT"),
        ({"ESFT_RESYNC_SECONDS": "-1"}, "ESFT_RESYNC_SECONDS"),
        ({"ESFT_POLL_SECONDS": "nan"}, "ESFT_POLL_SECONDS"),
        ({"ESFT_POLL_SECONDS": "0"}, "ESFT_POLL_SECONDS"),
        ({"ESFT_RESYNC_SECONDS": "inf"}, "ESFT_RESYNC_SECONDS"),
        ({"ESFT_HEALTH_PORT": "8080.5"}, "ESFT_HEALTH_PORT"),
        ({"ESFT_HEALTH_PORT": "70000"}, "ESFT_HEALTH_PORT"),
        ({"ESFT_METRICS_PORT": "-1"}, "ESFT_METRICS_PORT"),
        ({"ESFT_WORKER_GRACE_SECONDS": "1m"}, "ESFT_WORKER_GRACE_SECONDS"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, str], name: str) -> None:
    with pytest.raises(SpecError, match=f"^{name}.*Fix:"):
        OperatorSettings.from_environment({**NEEDED, **changes})


def test_a_runs_password_follows_from_key_and_uid() -> None:
    assert run_password("key", "uid") == run_password("key", "uid")
    assert len({run_password(key, uid) for key in ("key", "other") for uid in ("uid", "else")}) == 4


@pytest.mark.parametrize(
    ("operators", "place"),
    [
        ("redis://default:p%40ss@redis.system.svc:6379/0", "redis.system.svc:6379/0"),
        ("rediss://redis:6380/0?ssl_cert_reqs=required", "redis:6380/0?ssl_cert_reqs=required"),
    ],
)
def test_a_runs_url_has_its_own_user(operators: str, place: str) -> None:
    url = run_url(operators, key="key", uid="12-34")
    assert url == f"{operators.partition(':')[0]}://esft-12-34:{run_password('key', '12-34')}@{place}"
