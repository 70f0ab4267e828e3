-- ARGV: now. Returns registered workers and their info in turn; changes nothing.
if not exists() then
    return {'absent'}
end
local reply = {'ok'}
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, '(' .. integer(now), '+inf')) do
    reply[#reply + 1] = worker
    reply[#reply + 1] = redis.call('HGET', INFORMATION, worker) or ''
end
return reply
