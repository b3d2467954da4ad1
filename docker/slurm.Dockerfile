# Debian 12 with its own Slurm and the project: a cluster of virtual nodes in one container.
#
#     docker build -f docker/slurm.Dockerfile -t trialfleet-slurm .

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1

WORKDIR /opt/trialfleet
COPY requirements.lock ./
# pycosat, which reasoning-gym asks for, comes as C sources; nothing else needs the compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev \
    && pip install --require-hashes -r requirements.lock \
    && apt-get purge --yes --auto-remove gcc libc6-dev python3-dev \
    && rm -rf /var/lib/apt/lists/*

# The test cluster knows which of Debian's packages it needs.
COPY jobs/ jobs/
RUN python -m jobs.slurm_cluster install --accounting=dbd && rm -rf /var/lib/apt/lists/*

COPY pyproject.toml README.md LICENSE ./
COPY src/ src/
COPY conf/ conf/
COPY pipelines/ pipelines/
# As in trainer.Dockerfile: pipelines/ and jobs/ in any folder.
RUN pip install --no-deps --no-build-isolation --editable . \
    && python -c 'import os, sysconfig; open(sysconfig.get_path("purelib") + "/trialfleet_project.pth", "w").write(os.getcwd() + "\n")'

# The same user in all images: they share a volume. Slurm's daemons do not need root, either.
RUN useradd --uid 1000 --create-home trialfleet && install --directory --owner=trialfleet /srv/trialfleet
USER trialfleet
WORKDIR /srv/trialfleet
ENV TRIALFLEET_CLUSTER_DIR=/tmp/trialfleet-cluster SLURM_CONF=/tmp/trialfleet-cluster/slurm.conf
HEALTHCHECK --interval=10s --timeout=10s --start-period=20s CMD ["python", "-m", "jobs.slurm_cluster", "status"]
# Stays in the foreground and takes the cluster down on `docker stop`.
CMD ["python", "-m", "jobs.slurm_cluster", "up", "--foreground", "--accounting=dbd"]
