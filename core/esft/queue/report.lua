-- ARGV: now, worker, generation, item, result, milliseconds. Returns accepted and complete, each 0 or 1.
if not exists() then
    return {'absent'}
end
local worker, item = ARGV[2], ARGV[4]
if not running() or field('generation') ~= ARGV[3] then
    redis.call('HINCRBY', RUN, 'stale', 1)
    return {'ok', 0, 0}
end
local entry = redis.call('HGET', ITEMS, item)
if not entry then
    return {'unknown'}
end

local accepted = 1
local reporter = redis.call('HGET', REPORTERS, item)
if not reporter then
    redis.call('HSET', RESULTS, item, ARGV[5])
    redis.call('HSET', REPORTERS, item, worker)
    if redis.call('HDEL', LEASES, item) == 0 then
        redis.call('LREM', TODO, 1, item)
    end
    local kind = string.sub(entry, 1, 1) == 'r' and 'required_done' or 'optional_done'
    redis.call('HINCRBY', RUN, kind, 1)
    redis.call('HINCRBY', RUN, 'reported', 1)
    redis.call('HINCRBY', RUN, 'item_milliseconds', ARGV[6])
    local weight = math.min(redis.call('HINCRBY', RUN, 'measured', 1), MEASURED_WINDOW)
    local mean = number_field('mean_milliseconds')
    redis.call('HSET', RUN, 'mean_milliseconds',
        string.format('%.3f', mean + (tonumber(ARGV[6]) - mean) / weight))
elseif reporter ~= worker then
    redis.call('HINCRBY', RUN, 'duplicates', 1)
    accepted = 0
end
return {'ok', accepted, closable() and 1 or 0}
