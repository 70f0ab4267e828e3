-- ARGV: now, the parameters that a generation which is still open must have, or '', then an opening.
-- Returns what it came to: one of ReopenStatus.
if not exists() then
    return {'absent'}
end
local same = field('generation') == ARGV[3]
if running() then
    if not same or ARGV[2] == '' or field('parameters') ~= ARGV[2] then
        return {'running'}
    end
    open(3)
    return {'reopened'}
end
if field('phase') ~= 'Succeeded' then
    return {'failed'}
end
if not same then
    return {'other'}
end
if worker_count() > 0 then
    return {'occupied'}
end
redis.call('HSET', RUN, 'phase', 'Running', 'reason', '', 'message', '')
redis.call('HDEL', RUN, 'result')
open(3)
for _, key in ipairs(KEYS) do
    redis.call('PERSIST', key)
end
return {'reopened'}
