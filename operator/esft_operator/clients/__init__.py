"""The outside world: the API server and the Redis of runs."""
