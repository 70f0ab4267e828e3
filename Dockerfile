# The two images of esfinetune: `--target operator` and `--target worker`.
#
# Dependencies come first and from their own list, so that a change of the code rebuilds two small layers. Versions are
# those that the tests run with. pip reads whatever settings the build mounts as /etc/pip.conf.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
# Numeric, or Kubernetes cannot see that it is not root. HOME is a volume in the cluster, as the rest is read-only there.
RUN groupadd --gid 65532 esft \
 && useradd --uid 65532 --gid 65532 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin esft \
 && python3 -m venv --without-pip /opt/esft
ENV PATH=/opt/esft/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1

# Neither the code nor a tool's settings in pyproject.toml reach the layers of dependencies: only these lists do.
FROM base AS requirements
WORKDIR /src
COPY pyproject.toml hack/image_requirements.py ./
RUN python3 image_requirements.py operator > /operator.txt \
 && python3 image_requirements.py worker > /worker.txt

FROM base AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY core core
COPY local local
COPY cli cli
COPY worker worker
COPY operator operator
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM base AS operator
COPY --from=requirements /operator.txt /tmp/requirements.txt
COPY constraints/dev.txt /tmp/constraints.txt
RUN pip --python /opt/esft/bin/python install --no-cache-dir \
      --requirement /tmp/requirements.txt --constraint /tmp/constraints.txt
COPY --from=wheel /wheels /tmp/wheels
RUN pip --python /opt/esft/bin/python install --no-cache-dir --no-deps /tmp/wheels/*.whl \
 && rm -r /tmp/wheels /tmp/requirements.txt /tmp/constraints.txt \
 && python3 -c 'import importlib.util, sys; sys.exit(any(map(importlib.util.find_spec, ["torch", "numpy"])))'
USER 65532:65532
ENTRYPOINT ["esft-operator"]
ARG REVISION=unknown
LABEL org.opencontainers.image.title="esfinetune-operator" \
      org.opencontainers.image.description="Reconciles ESFineTune resources" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"

FROM base AS worker
# Another build of torch, such as one for another CUDA: a requirement that pip finds with the mounted settings.
ARG TORCH_REQUIREMENT=torch
# Files in site-packages, as patterns, that an image for processors alone can do without. For torch 2.15 with CUDA 13:
#   triton* nvidia/cudnn/lib/libcudnn_* nvidia/cu13/lib/*cusolver* nvidia/cu13/lib/*nvperf* nvidia/nvshmem/lib/*.bc
# is 2.3 GB. The rest of CUDA is what `import torch` itself loads.
ARG LEAVE_OUT=
# Triton compiles a small launcher in C for each of its kernels, in the worker. Empty for processors alone.
ARG C_COMPILER="gcc libc6-dev"
RUN if [ -n "${C_COMPILER}" ]; then \
      apt-get update && apt-get install --yes --no-install-recommends ${C_COMPILER} && rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=requirements /worker.txt /tmp/requirements.txt
COPY constraints/dev.txt /tmp/constraints.txt
RUN pip --python /opt/esft/bin/python install --no-cache-dir \
      "${TORCH_REQUIREMENT}" --requirement /tmp/requirements.txt --constraint /tmp/constraints.txt \
 && cd /opt/esft/lib/python3*/site-packages && rm -rf ${LEAVE_OUT}
COPY --from=wheel /wheels /tmp/wheels
RUN pip --python /opt/esft/bin/python install --no-cache-dir --no-deps /tmp/wheels/*.whl \
 && rm -r /tmp/wheels /tmp/requirements.txt /tmp/constraints.txt
USER 65532:65532
ENTRYPOINT ["esft-worker"]
ARG REVISION=unknown
LABEL org.opencontainers.image.title="esfinetune-worker" \
      org.opencontainers.image.description="One worker of an ESFineTune run" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
