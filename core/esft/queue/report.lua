-- ARGV: now, worker, generation, then item, result, milliseconds for each item.
-- Returns whether the generation can be closed, and for each item whether it was accepted, each 0 or 1.
if not exists() then
    return {'absent'}
end
local worker = ARGV[2]
local open = running() and field('generation') == ARGV[3]

local function accept(item, entry, result, milliseconds)
    local reporter = redis.call('HGET', REPORTERS, item)
    if reporter == worker then
        return 1
    elseif reporter then
        redis.call('HINCRBY', RUN, 'duplicates', 1)
        return 0
    end
    redis.call('HSET', RESULTS, item, result)
    redis.call('HSET', REPORTERS, item, worker)
    if redis.call('HDEL', LEASES, item) == 0 then
        redis.call('LREM', TODO, 1, item)
    end
    local kind = string.sub(entry, 1, 1) == 'r' and 'required_done' or 'optional_done'
    redis.call('HINCRBY', RUN, kind, 1)
    redis.call('HINCRBY', RUN, 'reported', 1)
    redis.call('HINCRBY', RUN, 'item_milliseconds', milliseconds)
    local weight = math.min(redis.call('HINCRBY', RUN, 'measured', 1), MEASURED_WINDOW)
    local mean = number_field('mean_milliseconds')
    redis.call('HSET', RUN, 'mean_milliseconds',
        string.format('%.3f', mean + (tonumber(milliseconds) - mean) / weight))
    return 1
end

local reply = {'ok', 0}
for i = 4, #ARGV, 3 do
    local entry = open and redis.call('HGET', ITEMS, ARGV[i])
    if entry then
        table.insert(reply, accept(ARGV[i], entry, ARGV[i + 1], ARGV[i + 2]))
    else
        redis.call('HINCRBY', RUN, 'stale', 1)
        table.insert(reply, 0)
    end
end
if open and closable() then
    reply[2] = 1
end
return reply
