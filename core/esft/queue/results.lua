-- ARGV: now, generation. Returns the open generation's parameters, the policy, then items and results in turn; nothing
-- when that generation is not the open one, or was opened again and lacks results.
if not exists() then
    return {'absent'}
end
if field('generation') ~= ARGV[2] or not sufficient() then
    return {'ok'}
end
local reply = redis.call('HGETALL', RESULTS)
table.insert(reply, 1, 'ok')
table.insert(reply, 2, field('parameters'))
table.insert(reply, 3, field('policy'))
return reply
