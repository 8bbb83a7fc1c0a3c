# syntax=docker/dockerfile:1
# Two targets from one recipe:
#   docker build --target cpu  -t lorehouse:cpu  --build-arg TORCH_INDEX=<index of CPU builds> .
#   docker build --target cuda -t lorehouse:cuda .
# torch is pinned to one version; which build of it (CPU or CUDA) is a question of the package index.
# The CUDA target takes the extra `gpu`, by the exact pins that `make check-pins` resolves for its
# Python (3.12) without installing them. README, On a GPU, says what of it was built and run.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-runtime-ubuntu24.04

FROM ${PYTHON_IMAGE} AS build-cpu
# Where CPU builds of torch are found; empty takes the default index's build.
ARG TORCH_INDEX=""
WORKDIR /src
RUN python -m venv /opt/lorehouse
ENV PATH=/opt/lorehouse/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The pinned libraries change seldom: a layer of their own, before the code.
COPY constraints.txt constraints-gpu.txt pyproject.toml README.md LICENSE ./
COPY service/__init__.py service/__init__.py
RUN pip install -c constraints.txt torch==2.13.0 ${TORCH_INDEX:+--index-url ${TORCH_INDEX}}
RUN mkdir -p adapters_store && touch adapters_store/__init__.py \
    && pip install -c constraints.txt . && pip uninstall -y lorehouse
COPY adapters_store adapters_store
COPY service service
RUN pip install --no-deps .

FROM ${PYTHON_IMAGE} AS cpu
COPY --from=build-cpu /opt/lorehouse /opt/lorehouse
RUN useradd --system --create-home --uid 10001 lorehouse && install -d -o lorehouse /data
ENV PATH=/opt/lorehouse/bin:$PATH \
    LOREHOUSE_HOST=0.0.0.0 \
    LOREHOUSE_PORT=8000 \
    LOREHOUSE_DATA_DIR=/data
USER lorehouse
WORKDIR /home/lorehouse
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=90s --retries=3 \
    CMD ["python", "-c", "import os,urllib.request as r; r.urlopen('http://127.0.0.1:%s/health/ready' % os.environ.get('LOREHOUSE_PORT', 8000), timeout=2)"]
ENTRYPOINT ["lorehouse"]
CMD ["serve"]

FROM ${CUDA_IMAGE} AS build-cuda
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python3 -m venv /opt/lorehouse
ENV PATH=/opt/lorehouse/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt constraints-gpu.txt pyproject.toml README.md LICENSE ./
COPY service/__init__.py service/__init__.py
RUN mkdir -p adapters_store && touch adapters_store/__init__.py \
    && pip install -c constraints.txt -c constraints-gpu.txt torch==2.13.0 '.[gpu]' \
    && pip uninstall -y lorehouse
COPY adapters_store adapters_store
COPY service service
RUN pip install --no-deps .

FROM ${CUDA_IMAGE} AS cuda
# Triton compiles the kernels' launchers where they run.
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-dev gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --uid 10001 lorehouse && install -d -o lorehouse /data
COPY --from=build-cuda /opt/lorehouse /opt/lorehouse
ENV PATH=/opt/lorehouse/bin:$PATH \
    LOREHOUSE_HOST=0.0.0.0 \
    LOREHOUSE_PORT=8000 \
    LOREHOUSE_DATA_DIR=/data
USER lorehouse
WORKDIR /home/lorehouse
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import os,urllib.request as r; r.urlopen('http://127.0.0.1:%s/health/ready' % os.environ.get('LOREHOUSE_PORT', 8000), timeout=2)"]
ENTRYPOINT ["lorehouse"]
CMD ["serve"]
