# The MLflow tracking server, of the same version as the clients in requirements.lock, for PostgreSQL.
#
#     docker build -f docker/mlflow.Dockerfile -t trialfleet-mlflow .

FROM python:3.11-slim-bookworm
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1

# The lock's versions, as constraints: the server needs few of its packages, and a database driver that is not
# in it, which rules out its hashes.
COPY requirements.lock /tmp/
RUN sed -n 's/^\([A-Za-z0-9._-]*==[^\\]*[^\\ ]\) *\\*$/\1/p' /tmp/requirements.lock > /tmp/constraints.txt \
    && pip install --constraint /tmp/constraints.txt mlflow "psycopg[binary]>=3.2,<4" \
    && rm /tmp/requirements.lock /tmp/constraints.txt

RUN useradd --uid 1000 --create-home mlflow && install --directory --owner=mlflow /mlartifacts
COPY --chmod=755 docker/mlflow-server.sh /usr/local/bin/mlflow-server
USER mlflow
WORKDIR /home/mlflow
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:5000/health', timeout=5)"]
CMD ["mlflow-server"]
