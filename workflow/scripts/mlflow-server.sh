#!/usr/bin/env bash
# An MLflow server for the jobs of several nodes: runs in an SQLite file, files beside it.
#
#   workflow/scripts/mlflow-server.sh [HOST [PORT [FOLDER]]]
#
# on a node that the compute nodes reach, in tmux or a service; then, where snakemake is started,
#
#   export MLFLOW_TRACKING_URI=http://HOST:PORT
#
# HOST is the name or address under which the compute nodes know this node (127.0.0.1 unless given:
# this machine alone). The server asks nobody for a password: it is for a network that you trust.
# Ctrl-C ends it. One that was killed is started again with the same command; `mrsr sync` then
# delivers what jobs have written meanwhile.
set -euo pipefail

host="${1:-127.0.0.1}" port="${2:-5000}" folder="${3:-.}"
mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"
# the project's own environment, activated or not
PATH="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.venv/bin:$PATH"
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
# timeout: writers of one SQLite file wait for each other instead of failing after five seconds
exec mlflow server --host "$host" --port "$port" --workers "${MLFLOW_WORKERS:-2}" \
  --backend-store-uri "sqlite:///$folder/mlflow.db?timeout=60" \
  --artifacts-destination "$folder/mlartifacts" \
  --allowed-hosts "$host:$port,$host,localhost:$port,127.0.0.1:$port"
