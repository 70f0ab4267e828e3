-- ARGV: now, worker, ttl in milliseconds.
if not exists() then
    return {'absent'}
end
-- After the end nobody registers any more, but who has not left yet still counts: reopen waits for them.
local drops_out = integer(now + tonumber(ARGV[3]))
if running() then
    redis.call('ZADD', WORKERS, drops_out, ARGV[2])
else
    redis.call('ZADD', WORKERS, 'XX', drops_out, ARGV[2])
end
return {'ok'}
