-- ARGV: now, generation. Returns items and results in turn; nothing when that generation is not the open one.
if not exists() then
    return {'absent'}
end
if field('generation') ~= ARGV[2] then
    return {'ok'}
end
local reply = redis.call('HGETALL', RESULTS)
table.insert(reply, 1, 'ok')
return reply
