#!/bin/sh
# Start the tracking server with the database's password from a secret rather than from its URI, which is shown
# by `ps` and `docker inspect`: libpq takes it from PGPASSWORD.
set -eu

if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
    export PGPASSWORD
fi

# Two workers serve 64 clients with the pools of compose.yaml; the default starts 15 processes.
exec mlflow server --host "${MLFLOW_HOST:-0.0.0.0}" --port 5000 --workers 2 "$@"
