# Ask the server of this pod: `ping.sh ready` wants the answer PONG, `ping.sh alive` any answer, such as LOADING.
#
# The password comes in REDISCLI_AUTH, which older versions of valkey-cli do not read under another name, nor newer
# ones perhaps under this one. A client exits with 0 after an error of the server.
set -eu
export VALKEYCLI_AUTH="$REDISCLI_AUTH"
client=$(command -v valkey-cli || command -v redis-cli)
answer=$("$client" ping 2>/dev/null)
[ "$1" = alive ] || [ "$answer" = PONG ]
