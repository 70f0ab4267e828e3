"""Each run's own way into the operator's Redis: a user that may touch the keys of its run and no others.

The password is derived from the operator's key and the run's uid, so it need not be read back from a Secret: the
operator has no right to read any.
"""

import hashlib
import hmac
from urllib.parse import quote, urlsplit, urlunsplit

from esft_operator.names import redis_user


def run_password(key: str, uid: str) -> str:
    """The password of a run: 64 hex digits."""
    return hmac.new(key.encode(), f"esfinetune/redis/{uid}".encode(), hashlib.sha256).hexdigest()


def run_url(operator_url: str, *, key: str, uid: str) -> str:
    """The URL of the operator's Redis with the run's own user in place of the operator's."""
    parts = urlsplit(operator_url)
    address = parts.netloc.rpartition("@")[2]
    user = f"{quote(redis_user(uid), safe='')}:{run_password(key, uid)}"
    return urlunsplit(parts._replace(netloc=f"{user}@{address}"))
