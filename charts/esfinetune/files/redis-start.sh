# Start Redis or Valkey, whichever the image has: `start.sh FOLDER [OPTION...]`, with the password in REDISCLI_AUTH.
#
# Users live in a file of the server's own beside the data, since the operator defines one for each run and saves it.
# The default user is ours: its line is written anew at each start, so that a changed password counts, and the others
# are kept. The file has hashes only, and no password is on a command line.
set -eu
umask 077
: "${REDISCLI_AUTH:?is not set}"
folder=$1
shift
users=$folder/users.acl
hash=$(printf %s "$REDISCLI_AUTH" | sha256sum | cut -d ' ' -f 1)
unset REDISCLI_AUTH
{
  echo "user default on #$hash ~* &* +@all"
  if [ -f "$users" ]; then sed -n '/^user default /d; /^user /p' "$users"; fi
} > "$users.new"
mv "$users.new" "$users"

server=$(command -v valkey-server || command -v redis-server)
exec "$server" --dir "$folder" --aclfile "$users" --databases 1 \
  --appendonly yes --appendfsync everysec --save '' --maxmemory-policy noeviction "$@"
