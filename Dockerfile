# docker build -t unimodel .                                              for GPUs
# docker build -t unimodel --build-arg BASE_IMAGE=python:3.11-slim .      for CPUs
# docker run --gpus all --ipc host -v "$PWD/runs:/workspace/runs" unimodel train configs/demo.yaml
ARG BASE_IMAGE=nvidia/cuda:13.0.1-devel-ubuntu24.04
FROM ${BASE_IMAGE}

# DeepSpeed compiles its kernels on first use: a compiler and Python's headers stay in the image. Ubuntu 24.04 brings
# Python 3.12; an image that already has a Python keeps it.
RUN apt-get update \
    && if command -v python3; then python=""; else python="python3 python3-dev python3-venv"; fi \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        $python build-essential ca-certificates git openssh-client \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --shell /bin/bash unimodel && install --directory --owner unimodel /workspace /opt/venv
USER unimodel
WORKDIR /workspace
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false

# From what changes rarely to what changes often: torch, the other dependencies, the project.
COPY --chown=unimodel constraints.txt pyproject.toml ./
RUN pip install --no-cache-dir -c constraints.txt torch
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && pip install --no-cache-dir -c constraints.txt -r requirements.txt \
    && rm requirements.txt
COPY --chown=unimodel . .
RUN pip install --no-cache-dir --no-deps -e .

ENTRYPOINT ["unimodel"]
CMD ["--help"]
