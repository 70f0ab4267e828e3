# shellcheck shell=bash
# Read by the scripts of this folder: where the cluster's files are, and how its programs are started and stopped.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=${CLUSTER_STATE:-$here/../../runs/cluster}
mkdir -p "$state"
state=$(cd "$state" && pwd)
# shellcheck disable=SC2034  # for the scripts that read this file
node=$state/node

fail() { echo "${0##*/}: $*" >&2; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || fail "needs root"; }

alive() { # pid: whether it runs; a zombie does not
  grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status" 2>/dev/null
}

own() { # pid: whether it runs and is this cluster's; a number passes on to other processes
  alive "$1" && { [ "$(readlink "/proc/$1/cwd")" = "$state" ] || tr '\0' ' ' < "/proc/$1/cmdline" | grep -qF "$state/"; }
}

start() { # name command...: as a daemon, unless the recorded one still runs
  local record=$state/$1.pid log=$state/log/$1.log
  shift
  if [ -f "$record" ] && own "$(cat "$record")"; then return; fi
  setsid "$@" > "$log" 2>&1 < /dev/null &
  echo $! > "$record"
}

stop() { # name: end the recorded process, and wait until it has gone
  local record=$state/$1.pid pid
  [ -f "$record" ] || return 0
  pid=$(cat "$record")
  rm -f "$record"
  own "$pid" || return 0
  kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 150); do alive "$pid" || return 0; sleep 0.1; done
  kill -9 "$pid" 2>/dev/null || true
}

certificate() { # name subject alternative-names: issued by the cluster's own authority
  openssl req -newkey rsa:2048 -nodes -keyout "$state/pki/$1.key" -out "$state/pki/$1.csr" -subj "$2" 2>/dev/null
  openssl x509 -req -in "$state/pki/$1.csr" -CA "$state/pki/ca.crt" -CAkey "$state/pki/ca.key" -CAcreateserial \
    -out "$state/pki/$1.crt" -days 365 -extfile <(echo "subjectAltName=$3") 2>/dev/null
}

valid_for() { # name address: whether there is such a certificate, for this address
  [ -f "$state/pki/$1.crt" ] && openssl x509 -in "$state/pki/$1.crt" -noout -checkip "$2" | grep -q 'does match'
}

ctr() { command ctr --address "$node/run/containerd.sock" --namespace k8s.io "$@"; }
