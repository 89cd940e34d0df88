#!/usr/bin/env bash
# Runs a command in this checkout, on a machine made for the tests. Needs Docker.
#
# usage: machine.sh COMMAND...
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

[ $# -ge 1 ] || { echo "usage: $0 COMMAND..." >&2; exit 2; }
docker build --quiet --tag scrapetarget-machine - < "$here/machine.Dockerfile" > /dev/null
# /tmp is a volume: a node of the tests keeps its images there, and an overlay on Docker's own overlay cannot be mounted.
# The checkout belongs to another user than root, to git a reason to refuse it.
exec docker run --rm --privileged --cgroupns host --volume "$here/../..:/src" --volume scrapetarget-cache:/root/.cache --volume /tmp \
  --env CI=true --env GIT_CONFIG_COUNT=1 --env GIT_CONFIG_KEY_0=safe.directory --env GIT_CONFIG_VALUE_0=/src \
  scrapetarget-machine "$@"
