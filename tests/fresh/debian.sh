#!/usr/bin/env bash
# A fresh machine: a bare Debian made by debootstrap, a clone of this project in it, and what a new
# user runs there, as a user without rights. Needs root, debootstrap and the network.
#
#   tests/fresh/debian.sh SUITE WHAT [FOLDER]
#
#   SUITE    bookworm (Debian 12, Python 3.11), trixie (13, 3.13), or another that debootstrap knows
#   WHAT     readme      `make demo` and `make test`, as the README has them
#            smoke       `make venv` and the experiment `smoke`
#            container   the steps of envs/apptainer.def, then `smoke` with what they installed
#            root        nothing; the root stays for a look around
#   FOLDER   for the root, which is used again if it is there; by default a new one, removed at the end
#
# From the environment: DEBIAN_MIRROR, by default the first one that this machine's apt uses; and what
# pip is told here, in its files and by PIP_*, holds in the root too.
set -euo pipefail

suite="${1:?which Debian? such as bookworm}" what="${2:?readme, smoke, container or root}"
project="$(git -C "$(dirname "${BASH_SOURCE[0]}")" rev-parse --show-toplevel)"
fail() { echo "mrsr: error: $*" >&2; exit 2; }
[ "$(id -u)" = 0 ] || fail "debootstrap and chroot need root"
command -v debootstrap >/dev/null || fail "no debootstrap; install it with apt"

mirror="${DEBIAN_MIRROR:-$(sed -nE 's#^(URIs:|deb( \[[^]]*\])?) +(https?://[^ ]+).*#\3#p' \
  /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -n 1 || true)}"
[ -n "$mirror" ] || fail "set DEBIAN_MIRROR to the address of a Debian mirror"

if [ -z "${MRSR_FRESH_INSIDE:-}" ]; then # mounts of our own, which end with this script
  MRSR_FRESH_INSIDE=1 exec unshare --mount "$0" "$@"
fi
folder="${3:-}"
if [ -z "$folder" ]; then
  folder="$(mktemp -d)"
  trap 'umount -R "$root"/{proc,dev,sys} 2>/dev/null || true; rm -rf --one-file-system "$folder"' EXIT
fi
root="$folder/$suite"

step() { # NAME COMMAND...: run it, say how long it took and what came over the network
  local name="$1" start=$SECONDS before
  before="$(received)"
  shift
  "$@"
  echo "::: $suite: $name: $((SECONDS - start)) s, $((($(received) - before) / 1000000)) MB received"
}
received() { awk '$1 != "lo:" && /:/ {sum += $2} END {printf "%d", sum}' /proc/net/dev; }

make_root() {
  # unpacked files need not be safe from a power cut
  mkdir -p "$root/etc/dpkg/dpkg.cfg.d"
  printf 'force-unsafe-io\npath-exclude=/usr/share/doc/*\n' >"$root/etc/dpkg/dpkg.cfg.d/fresh"
  debootstrap --variant=minbase --include=python3,python3-venv,git,make,ca-certificates \
    "$suite" "$root" "$mirror" >"$folder/$suite.log" 2>&1 ||
    fail "debootstrap failed: $(tail -n 1 "$folder/$suite.log")"
  chroot "$root" useradd --create-home --uid 31415 person
}

connect() { # the network, and the file systems that every process expects
  local name path
  cp --remove-destination /etc/resolv.conf "$root/etc/resolv.conf"
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  for name in proc sys dev; do mount --rbind "/$name" "$root/$name"; done
  # pip's settings, and the folders and files that they name
  python3 -m pip config list 2>/dev/null | sed -nE "s/^(global|user)\.([a-z-]+)='(.*)'$/\2 = \3/p" \
    | { echo "[global]"; cat; } >"$root/etc/pip.conf"
  for path in $(grep -oE '(file://)?/[^ ]+' "$root/etc/pip.conf"; env | sed -n 's/^PIP_[A-Z_]*=//p'); do
    case "$path" in file://*) path="$(dirname "${path#file://}")" ;; esac # an index has its files beside it
    if [ -d "$path" ]; then
      mkdir -p "$root$path"
      mount --rbind -o ro "$path" "$root$path"
    elif [ -f "$path" ]; then
      mkdir -p "$(dirname "$root$path")"
      cp --remove-destination "$path" "$root$path"
    fi
  done
}

inside() { # USER COMMAND: in the root, with pip's variables and no others
  local pip=()
  while IFS= read -r line; do pip+=("$line"); done < <(env | grep '^PIP_' || true)
  chroot --userspec="$1:$1" "$root" /usr/bin/env -i "${pip[@]}" LANG=C.UTF-8 \
    PATH="${inside_path:-/usr/local/bin:/usr/bin:/bin}" HOME="$([ "$1" = root ] && echo /root || echo "/home/$1")" \
    bash -euo pipefail -c "$2"
}

clone() { # HEAD of this project: what is not committed is not tested
  git -C "$project" bundle create --quiet "$root/tmp/mrsr.bundle" HEAD
  chmod a+r "$root/tmp/mrsr.bundle"
  inside person "cd && rm -rf mrsr && git clone --quiet /tmp/mrsr.bundle mrsr 2>/dev/null &&
    git -C mrsr switch --quiet --create main"
}

container() { # %files and %post of envs/apptainer.def; the root's Python stands for its base image
  python3 - "$project/envs/apptainer.def" <<'PY' >"$folder/steps"
import sys
section = ""
for line in open(sys.argv[1], encoding="utf-8"):
    if line.startswith("%"):
        section = line.split()[0]
    elif section == "%files" and line.strip():
        source, target = line.split()
        print(f"mkdir -p $(dirname {target}) && cp -r {source} {target}")
    elif section == "%post" and line.strip():
        print(line.strip())
PY
  inside root "python3 -m venv /opt/python"
  inside_path=/opt/python/bin:/usr/bin:/bin:/usr/sbin:/sbin \
    inside root "export DEBIAN_FRONTEND=noninteractive; cd ~person/mrsr; set -x; $(cat "$folder/steps")"
  inside_path=/opt/python/bin:/usr/bin:/bin inside person \
    "cd ~/mrsr && mrsr --version && snakemake --logger mrsr --cores 2 all --config experiment=smoke"
}

[ -x "$root/usr/bin/git" ] || step "the root" make_root
connect
clone
case "$what" in
  readme)
    step "make demo" inside person "cd ~/mrsr && make demo"
    step "make test" inside person "cd ~/mrsr && make test" ;;
  smoke)
    step "make venv" inside person "cd ~/mrsr && make venv"
    step "smoke" inside person \
      "cd ~/mrsr && .venv/bin/snakemake --logger mrsr --cores 2 all --config experiment=smoke" ;;
  container) step "envs/apptainer.def" container ;;
  root) ;;
  *) fail "what is '$what'? readme, smoke, container or root" ;;
esac
