-- ARGV: now, worker. Returns the number of leases given back.
if not exists() then
    return {'absent'}
end
local worker, count = ARGV[2], 0
if running() then
    local _
    _, count = release(function(holder) return holder.worker == worker end)
end
redis.call('ZREM', WORKERS, worker)
return {'ok', count}
