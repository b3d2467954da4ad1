# Everything a person types and a trial runs: Python 3.11, the packages of requirements.lock, the project.
#
#     docker build -f docker/trainer.Dockerfile -t trialfleet-trainer .
#     docker build -f docker/trainer.Dockerfile -t trialfleet-trainer:cuda --build-arg JAX_EXTRA=cuda12 .

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# pycosat, which reasoning-gym asks for, comes as C sources.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

# Before the sources, so that a change of code does not install all packages again.
COPY requirements.lock /opt/trialfleet/
RUN pip install --require-hashes -r /opt/trialfleet/requirements.lock

# The lock is for CPUs. `cuda12`, `cuda13` or `tpu` adds JAX's plugin for these, of the lock's version of JAX;
# it is the one thing here that is not checked against a hash.
ARG JAX_EXTRA=""
RUN test -z "$JAX_EXTRA" || \
    pip install "jax[$JAX_EXTRA]==$(sed -n 's/^jax==\([^ ;]*\).*/\1/p' /opt/trialfleet/requirements.lock)"

WORKDIR /opt/trialfleet
COPY pyproject.toml README.md LICENSE ./
COPY src/ src/
COPY conf/ conf/
COPY pipelines/ pipelines/
COPY jobs/ jobs/
# Editable, since conf/ is found next to pipelines/; with the lock's own setuptools. The second line, which `make setup`
# has, too, lets the commands of pipelines/ and jobs/ be typed in any folder: the installed package is src/ alone.
RUN pip install --no-deps --no-build-isolation --editable . \
    && python -c 'import os, sysconfig; open(sysconfig.get_path("purelib") + "/trialfleet_project.pth", "w").write(os.getcwd() + "\n")'


FROM python:3.11-slim-bookworm
# The same user in all images: they share a volume.
RUN useradd --uid 1000 --create-home trialfleet && install --directory --owner=trialfleet /srv/trialfleet
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/trialfleet /opt/trialfleet
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
USER trialfleet
# sweeps/ and outputs/ come to be where the command is typed.
WORKDIR /srv/trialfleet
CMD ["python", "-m", "pipelines.train", "--help"]
