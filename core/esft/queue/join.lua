-- ARGV: now, worker, fingerprint, ttl in milliseconds, info. Returns the state.
if not exists() then
    return {'absent'}
end
if field('fingerprint') ~= ARGV[3] then
    return {'other', field('fingerprint')}
end
if running() then
    local worker = ARGV[2]
    release(function(holder) return holder.worker == worker end)
    redis.call('ZADD', WORKERS, integer(now + tonumber(ARGV[4])), worker)
    redis.call('HSET', INFORMATION, worker, ARGV[5])
end
return state()
