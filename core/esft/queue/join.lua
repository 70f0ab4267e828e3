-- ARGV: now, worker, fingerprint, contract, ttl in milliseconds. Returns the state, or what does not agree.
if not exists() then
    return {'absent'}
end
if field('contract') ~= ARGV[4] then
    return {'versions', field('contract') or '', field('release') or ''}
end
if field('fingerprint') ~= ARGV[3] then
    return {'other', field('fingerprint')}
end
if running() then
    local worker = ARGV[2]
    release(function(holder) return holder.worker == worker end)
    redis.call('ZADD', WORKERS, integer(now + tonumber(ARGV[5])), worker)
end
return state()
