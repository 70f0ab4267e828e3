-- ARGV: now, then an opening. Returns what it came to: one of ReopenStatus.
if not exists() then
    return {'absent'}
end
if running() then
    return {'running'}
end
if field('phase') ~= 'Succeeded' then
    return {'failed'}
end
if field('generation') ~= ARGV[2] then
    return {'other'}
end
if worker_count() > 0 then
    return {'occupied'}
end
redis.call('HSET', RUN, 'phase', 'Running', 'reason', '', 'message', '')
redis.call('HDEL', RUN, 'result')
open(2)
for _, key in ipairs(KEYS) do
    redis.call('PERSIST', key)
end
return {'reopened'}
