-- ARGV: now, phase, reason, message, ttl in seconds, and the result if there is one. Returns the state.
if not exists() then
    return {'absent'}
end
if running() then
    redis.call('HSET', RUN, 'phase', ARGV[2], 'reason', ARGV[3], 'message', ARGV[4])
    if ARGV[6] then
        redis.call('HSET', RUN, 'result', ARGV[6])
    end
    for _, key in ipairs(KEYS) do
        redis.call('EXPIRE', key, ARGV[5])
    end
end
return state()
