# Ask this pod's server: `ping.sh ready [OPTION...]` wants the answer PONG, `ping.sh alive` any answer at all.
#
# A server that still reads its file answers LOADING: it is not ready, and to kill it would only make it begin anew. What
# a client exits with after an error of the server depends on its version, so the answer itself counts.
set -eu
wanted=$1
shift
client=$(command -v valkey-cli || command -v redis-cli)
if [ "$wanted" = alive ]; then
  unset REDISCLI_AUTH # the refusal is an answer
  [ -n "$("$client" "$@" ping 2>/dev/null)" ]
else
  export VALKEYCLI_AUTH="$REDISCLI_AUTH" # some versions of valkey-cli want it under their own name
  [ "$("$client" "$@" ping 2>/dev/null)" = PONG ]
fi
