#!/usr/bin/env bash
# The whole story through the containers: up, blacklist, restart, still blacklisted, restore, down with everything.
# Needs a Docker engine, Compose and curl; takes port 35000. `compose.sh build` only builds the images.
set -euo pipefail
cd "$(dirname "$0")/.."

export COMPOSE_PROJECT_NAME=jwt-blacklist-gateway-story
url=http://127.0.0.1:35000

compose() {
  if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi
}

# expect STATUS TEXT METHOD PATH: the answer to the token has this status, and this text in its body
expect() {
  local answer
  answer=$(curl -sS -X "$3" -H "Authorization: Bearer $token" -w '\n%{http_code}' "$url$4")
  if [[ ${answer##*$'\n'} != "$1" || $answer != *"$2"* ]]; then
    echo "compose: $3 $4: wanted $1 with $2, got: $answer" >&2
    return 1
  fi
  echo "compose: $3 $4: $1 $2"
}

# wait_until_ready [PAUSE]: look every so many seconds, 0.5 by default
wait_until_ready() {
  for _ in $(seq 240); do
    curl -sf -o /dev/null "$url/-/ready" && return
    sleep "${1:-0.5}"
  done
  echo "compose: the gateway does not get ready" >&2
  compose logs >&2
  return 1
}

# hardened SERVICE: neither root, nor a writable root file system, nor a package installer
hardened() {
  compose exec -T "$1" sh -c '
    [ "$(id -u)" != 0 ] || echo "runs as root"
    ! touch /file 2>/dev/null || echo "has a writable root"
    ! python -c "import pip" 2>/dev/null || echo "has pip"
    ! python -c "import ensurepip" 2>/dev/null || echo "has ensurepip"' >"$faults"
  [ ! -s "$faults" ] || { echo "compose: $1 $(cat "$faults")" >&2; return 1; }
}

if [ "${1:-}" = build ]; then
  compose build
  exit
fi

faults=$(mktemp)
trap 'rm "$faults"; compose down --volumes --timeout 5' EXIT
compose up --detach --build
wait_until_ready

token=$(compose exec -T gateway gateway token)
expect 200 '"request"' GET /info
expect 200 '"blacklisted": true' POST /blacklist
expect 401 token-blacklisted GET /info
compose restart gateway
wait_until_ready
expect 401 token-blacklisted GET /info
expect 200 '"blacklisted": false' DELETE /blacklist
expect 200 '"token"' GET /info

for service in gateway upstream; do
  for _ in $(seq 60); do
    health=$(docker inspect --format '{{.State.Health.Status}}' "$(compose ps -q "$service")")
    [ "$health" != starting ] && break
    sleep 0.5
  done
  [ "$health" = healthy ] || { echo "compose: $service is $health" >&2; exit 1; }
done

compose exec -T gateway gateway --version | grep -F '(compiled)'
hardened gateway
hardened upstream
[ -z "$(docker port "$(compose ps -q upstream)")" ] || { echo "compose: the upstream is published" >&2; exit 1; }
image=$(docker inspect --format '{{.Image}}' "$(compose ps -q gateway)")
compose stop --timeout 40
began=$(date +%s%N)
docker run --detach --rm --name "$COMPOSE_PROJECT_NAME" --publish 127.0.0.1:35000:35000 "$image" >/dev/null
trap 'docker rm --force "$COMPOSE_PROJECT_NAME" >/dev/null; rm "$faults"; compose down --volumes --timeout 5' EXIT
wait_until_ready 0.01
echo "compose: ready $((($(date +%s%N) - began) / 1000000)) ms after docker run," \
  "from an image of $(($(docker image inspect --format '{{.Size}}' "$image") / 1000000)) MB"
echo "compose: the whole story is so"
