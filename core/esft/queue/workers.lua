-- ARGV: now. Returns the names of the registered workers; changes nothing.
if not exists() then
    return {'absent'}
end
local reply = redis.call('ZRANGEBYSCORE', WORKERS, '(' .. integer(now), '+inf')
table.insert(reply, 1, 'ok')
return reply
