-- ARGV: now, worker, ttl in milliseconds. Returns the phase and the open generation.
if not exists() then
    return {'absent'}
end
if running() then
    redis.call('ZADD', WORKERS, integer(now + tonumber(ARGV[3])), ARGV[2])
end
return {'ok', field('phase'), field('generation')}
