"""A run's children as manifests, ready for server-side apply. Pure: the same run gives the same manifests."""

from esft_operator.decide.build.child import child
from esft_operator.decide.build.credentials import redis_secret
from esft_operator.decide.build.keda import scaled_object, trigger_authentication
from esft_operator.decide.build.specification import config_map
from esft_operator.decide.build.storage import checkpoint_uri, volume_claim
from esft_operator.decide.build.workers import job, pod_monitor, template_hash

__all__ = [
    "checkpoint_uri",
    "child",
    "config_map",
    "job",
    "pod_monitor",
    "redis_secret",
    "scaled_object",
    "template_hash",
    "trigger_authentication",
    "volume_claim",
]
