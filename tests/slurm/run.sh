#!/usr/bin/env bash
# `make slurm-test`: a SLURM on this machine for as long as the tests marked slurm run.
#   run.sh PYTHON [arguments of pytest]
# Installs Debian packages, so it needs root and apt-get. Where there is none it says so and exits
# with 0, in CI with 1.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$1
shift
# more than the machine has: jobs ask for what the profile says, and need little of it
export CPUS=16 GPUS=4 MEMORY=200000 ACCOUNTING=1

cannot() {
  echo "slurm-test: NOT RUN: $1. No test of the cluster was run." >&2
  [ -z "${CI:-}" ] || exit 1
  exit 0
}

[ "$(id -u)" = 0 ] || cannot "it installs and starts daemons, which needs root"
command -v apt-get >/dev/null || cannot "it needs apt-get (Debian, Ubuntu)"
"$here/start-slurm.sh" may || cannot "this machine has a SLURM of its own, which is left alone"
"$here/start-slurm.sh" install || cannot "the packages could not be installed"

# one that runs already is used and left running
if ! "$here/start-slurm.sh" running; then
  trap '"$here/start-slurm.sh" stop' EXIT
  "$here/start-slurm.sh" start
fi
"$python" -m pytest -m slurm tests/slurm "$@"
