# Redis 7 from Debian, as the chart's StatefulSet wants its image: a shell, sed, sha256sum, and the user 999.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}
RUN groupadd --gid 999 redis && useradd --uid 999 --gid 999 --home-dir /data --no-create-home redis \
 && apt-get update && apt-get install --yes --no-install-recommends redis-server \
 && rm -rf /var/lib/apt/lists/*
USER 999:999
