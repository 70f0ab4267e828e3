-- What every script begins with: the names of the keys, the time, leases and the open generation.
-- esft.queue.scripts puts this file before each of the others; it is no script by itself.
--
-- Numbers that matter stay strings or integers below 2^53 written with %.0f; results, records and
-- openings are opaque text that no script looks into.

local RUN, LOG, TODO, ITEMS, LEASES, RESULTS, REPORTERS, WORKERS, DIGESTS, MISMATCHES = unpack(KEYS)

local MINIMUM_LEASE = 30 * 1000        -- milliseconds, as all times here
local FIRST_LEASE = 10 * 60 * 1000     -- before anything was measured
local MINIMUM_LATE = 2 * 1000
local MAXIMUM_WAIT = 1000
local MINIMUM_WAIT = 10
local MEASURED_WINDOW = 64             -- the mean item time forgets what is older than about this many items

local now
if ARGV[1] == '' then
    local time = redis.call('TIME')
    now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
else
    now = tonumber(ARGV[1])
end

local function integer(number)
    return string.format('%.0f', number)
end

local function field(name)
    return redis.call('HGET', RUN, name)
end

local function number_field(name)
    return tonumber(field(name) or '0')
end

local function exists()
    return redis.call('EXISTS', RUN) == 1
end

local function running()
    return field('phase') == 'Running'
end

-- Leases ------------------------------------------------------------------------------------------------
-- LEASES: item -> "since deadline worker token", once for each of its one or two holders, oldest first.

local function parse_holders(value)
    local holders = {}
    for since, deadline, worker, token in string.gmatch(value, '(%S+) (%S+) (%S+) (%S+)') do
        holders[#holders + 1] =
            {since = tonumber(since), deadline = tonumber(deadline), worker = worker, token = token}
    end
    return holders
end

local function store_holders(item, holders)
    local texts = {}
    for index, holder in ipairs(holders) do
        texts[index] = table.concat(
            {integer(holder.since), integer(holder.deadline), holder.worker, holder.token}, ' ')
    end
    redis.call('HSET', LEASES, item, table.concat(texts, ' '))
end

-- ITEMS: item -> "r" (required) or "o" (optional), then its position in the opening.
local function position(item)
    return tonumber(string.sub(redis.call('HGET', ITEMS, item), 2))
end

local function by_position(items)
    local positions = {}
    for _, item in ipairs(items) do
        positions[item] = position(item)
    end
    table.sort(items, function(a, b) return positions[a] < positions[b] end)
    return items
end

-- Ends the leases that `ended` is true of; items left without a holder go to the front of the queue.
-- Returns the leases that remain (item -> holders) and the number of those ended.
local function release(ended)
    local kept, orphans, count = {}, {}, 0
    local leases = redis.call('HGETALL', LEASES)
    for index = 1, #leases, 2 do
        local item, remaining, before = leases[index], {}, 0
        for _, holder in ipairs(parse_holders(leases[index + 1])) do
            before = before + 1
            if not ended(holder) then
                remaining[#remaining + 1] = holder
            end
        end
        count = count + before - #remaining
        if #remaining == 0 then
            redis.call('HDEL', LEASES, item)
            orphans[#orphans + 1] = item
        else
            if #remaining < before then
                store_holders(item, remaining)
            end
            kept[item] = remaining
        end
    end
    by_position(orphans)
    for index = #orphans, 1, -1 do
        redis.call('LPUSH', TODO, orphans[index])
    end
    return kept, count
end

-- Gives back what is overdue or held by a worker that fell silent, and forgets such workers. Returns the
-- leases that remain. A holder that never joined has its deadline only.
local function sweep()
    local silent = {}
    for _, worker in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, '-inf', integer(now))) do
        silent[worker] = true
        redis.call('ZREM', WORKERS, worker)
    end
    local leases, count = release(function(holder)
        return holder.deadline <= now or silent[holder.worker] == true
    end)
    if count > 0 then
        redis.call('HINCRBY', RUN, 'leases_expired', count)
    end
    return leases
end

-- How long an item may be out, in milliseconds, before it is late.
local function late_after()
    return math.max(MINIMUM_LATE, 2 * number_field('mean_milliseconds'))
end

local function all_leases()
    return (release(function() return false end))
end

-- True when all that the open generation needs is reported.
local function sufficient()
    return number_field('required_done') >= number_field('required')
        and number_field('optional_done') >= number_field('optional_needed')
end

-- True when the open generation may be closed: what it needs is reported, and whatever is missing is out and late.
-- `leases` as from sweep(), or nil to read them here.
local function closable(leases)
    if not sufficient() or redis.call('LLEN', TODO) > 0 then
        return false
    end
    local patience = late_after()
    for _, holders in pairs(leases or all_leases()) do
        if now - holders[1].since <= patience then
            return false
        end
    end
    return true
end

-- Generations and state ---------------------------------------------------------------------------------

-- Opens a generation. ARGV from `first` on: generation, opening, parameters, optional_needed, then each item with
-- "r" or "o" before it.
local function open(first)
    local required = 0
    redis.call('DEL', TODO, ITEMS, LEASES, RESULTS, REPORTERS)
    for index = first + 4, #ARGV do
        local kind, item = string.sub(ARGV[index], 1, 1), string.sub(ARGV[index], 2)
        if kind == 'r' then
            required = required + 1
        end
        redis.call('RPUSH', TODO, item)
        redis.call('HSET', ITEMS, item, kind .. integer(index - first - 4))
    end
    redis.call('HSET', RUN,
        'generation', ARGV[first], 'opening', ARGV[first + 1], 'parameters', ARGV[first + 2],
        'optional_needed', ARGV[first + 3],
        'required', required, 'required_done', 0, 'optional_done', 0,
        'opened', integer(now), 'item_milliseconds', 0,
        'leases_expired_before', field('leases_expired') or 0, 'backups_before', field('backups') or 0)
end

local function worker_count()
    return redis.call('ZCOUNT', WORKERS, '(' .. integer(now), '+inf')
end

local function state()
    return {
        'ok', redis.call('HGETALL', RUN),
        redis.call('HLEN', RESULTS), redis.call('HLEN', LEASES), redis.call('LLEN', TODO), worker_count(),
    }
end
