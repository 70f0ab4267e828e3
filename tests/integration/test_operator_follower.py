"""The operator's eyes on a real Redis: every entry once, lost updates, and one broken run among others."""

import asyncio
from collections.abc import Callable

import pytest
import redis
from kubernetes import client
from prometheus_client import CollectorRegistry

from conftest import RedisProcess
from esft.queue import RunQueue
from esft.queue.scripts import run_keys
from esft.status.ledger import Ledger
from esft_operator.clients.cluster import Cluster
from esft_operator.clients.redis_endpoint import Endpoint
from esft_operator.metrics import OperatorMetrics
from esft_operator.observe.progress import Follower
from esft_operator.observe.situation import Progress
from esft_operator.resource import Run
from esft_operator.service import Service
from esft_operator.settings import OperatorSettings
from operator_situations import UID, body, entry
from queue_parts import make_first_release
from simulated_worker import create_run

pytestmark = pytest.mark.integration

RUN = Run.from_body(body(evolution__generations=500))
KEY = (RUN.namespace, RUN.name)
OTHER = (RUN.namespace, "other")
GENERATIONS = 200  # several pages of the log


def made(redis_client: redis.Redis, uid: str, generations: int) -> RunQueue:
    queue = RunQueue(redis_client, uid)
    log = [entry(generation).record for generation in range(generations)]
    create_run(queue, RUN.spec, log)
    return queue


class Watching:
    """A follower of the shared Redis."""

    def __init__(self, url: str) -> None:
        self.registry = CollectorRegistry()
        self.news: list[tuple[str, str]] = []
        self.endpoint = Endpoint(url, credentials_key=None)
        self.follower = Follower(OperatorMetrics(self.registry), notify=self.news.append, poll_seconds=60.0)

    def look(self) -> None:
        self.follower.look(self.endpoint)

    def follow(self, key: tuple[str, str], uid: str) -> None:
        self.follower.follow(key, uid, self.endpoint, start=Ledger())

    def progress(self, key: tuple[str, str] = KEY, uid: str = UID) -> Progress:
        return self.follower.follow(key, uid, self.endpoint, start=Ledger())

    def members(self) -> float | None:
        labels = {"namespace": KEY[0], "name": KEY[1]}
        return self.registry.get_sample_value("esfinetune_members_evaluated_total", labels)


@pytest.fixture
def watching(redis_url: str, redis_client: redis.Redis) -> Watching:
    return Watching(redis_url)


def test_one_look_reads_the_log_to_its_end_and_counts_it_once(
    watching: Watching, redis_client: redis.Redis
) -> None:
    made(redis_client, UID, GENERATIONS)
    watching.follow(KEY, UID)
    watching.look()
    watching.look()
    seen = watching.progress()
    assert seen.asked
    assert seen.ledger.generation == GENERATIONS
    assert watching.members() == 4 * GENERATIONS


def test_news_are_told_of_once(watching: Watching, redis_client: redis.Redis) -> None:
    watching.follow(KEY, UID)
    watching.look()
    assert watching.news == [KEY]  # Redis answered, though it holds no such run
    watching.look()
    assert watching.news == [KEY]
    made(redis_client, UID, 1)
    watching.look()
    watching.look()
    assert watching.news == [KEY, KEY]


def test_updates_that_redis_lost_are_read_again(watching: Watching, redis_client: redis.Redis) -> None:
    queue = made(redis_client, UID, 5)
    watching.follow(KEY, UID)
    watching.look()
    queue.delete()
    made(redis_client, UID, 3)
    watching.look()
    assert watching.progress().ledger.generation == 3


def test_a_redis_that_is_away_and_comes_back(start_redis: Callable[..., RedisProcess]) -> None:
    server = start_redis("--appendonly", "yes", "--appendfsync", "always")
    watching = Watching(server.url)
    with redis.Redis(unix_socket_path=str(server.socket)) as own:
        made(own, UID, 2)
    watching.follow(KEY, UID)
    watching.look()
    server.stop()
    watching.look()
    away = watching.progress()
    assert away.problem is not None
    assert away.ledger.generation == 2
    server.start()
    watching.look()
    assert watching.progress().problem is None


@pytest.mark.parametrize("broken", ["record", "opening", "type", "end", "measures"])
def test_one_broken_run_hides_no_other(watching: Watching, redis_client: redis.Redis, broken: str) -> None:
    made(redis_client, "broken", 1)
    made(redis_client, UID, 2)
    keys = dict(zip(("run", "log"), run_keys("broken")[:2], strict=True))
    if broken == "opening":
        redis_client.hset(keys["run"], "opening", "no JSON")
    elif broken == "type":
        redis_client.set(keys["log"], "no stream")
    elif broken == "measures":
        redis_client.hset(keys["run"], "measures", '{"update_norm": "much"}')
    elif broken == "end":
        redis_client.hset(keys["run"], mapping={"phase": "Failed", "reason": "not a word"})
    else:
        redis_client.delete(keys["log"])
        redis_client.xadd(keys["log"], {"record": "no JSON"}, id="1-0")
    watching.follow(OTHER, "broken")
    watching.follow(KEY, UID)
    watching.look()
    assert watching.progress().ledger.generation == 2
    assert watching.progress(OTHER, "broken").problem is not None


def test_a_run_of_the_first_release_says_which_image_goes_on_with_it(
    watching: Watching, redis_client: redis.Redis
) -> None:
    first = made(redis_client, "first", 3)
    other = made(redis_client, UID, 2)
    make_first_release(first)
    watching.follow(OTHER, "first")
    watching.follow(KEY, UID)
    watching.look()
    seen = watching.progress(OTHER, "first")
    assert seen.asked
    assert seen.problem is not None
    reason, message = seen.problem
    assert reason == "AnotherVersion"
    assert "was begun by esfinetune 0.1.0 " in message
    assert " image esfinetune/worker:0.1.0 " in message
    assert (seen.state, seen.ledger.generation) == (None, 0)
    assert watching.progress().problem is None
    assert watching.progress().ledger.generation == 2
    other.delete()
    made(redis_client, UID, 4)
    watching.look()
    assert watching.progress().ledger.generation == 4


def test_an_operator_that_tries_is_alive_though_nothing_goes_through(redis_url: str) -> None:
    nowhere = client.Configuration(host="http://127.0.0.1:1")
    nowhere.retries = False
    metrics = OperatorMetrics(CollectorRegistry())
    settings = OperatorSettings(redis_url=redis_url, credentials_key="key", resync_seconds=0.0)
    service = Service(settings, cluster=Cluster(client.ApiClient(nowhere)), metrics=metrics)

    async def run() -> None:
        service.start()
        service._done_at -= 3600
        assert service.problem() is None  # there is no run
        service.saw_resource("ADDED", body())
        async with asyncio.timeout(10):
            while not service._queue._failures:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        problem = service.problem()
        await service.stop()
        assert problem is None

    asyncio.run(run())


def test_a_run_whose_redis_moved_goes_on_in_the_new_one(
    watching: Watching, redis_client: redis.Redis, start_redis: Callable[..., RedisProcess]
) -> None:
    made(redis_client, UID, 2)
    watching.follow(KEY, UID)
    watching.look()
    server = start_redis()
    with redis.Redis(unix_socket_path=str(server.socket)) as other:
        made(other, UID, 5)
    watching.endpoint = Endpoint(server.url, credentials_key=None)
    watching.follow(KEY, UID)
    watching.look()
    assert watching.progress().ledger.generation == 5
    assert watching.members() == 5 * 4  # each generation once
