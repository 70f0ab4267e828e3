-- ARGV: now, worker, generation, count, token, lease in milliseconds or ''.
-- Returns a status, the open generation, a hint how long to wait in milliseconds, the generation's parameters, the
-- policy, and the items.
if not exists() then
    return {'absent'}
end
local worker, generation, count, token = ARGV[2], field('generation'), tonumber(ARGV[4]), ARGV[5]

local function answer(status, wait)
    return {status, generation, wait, field('parameters'), field('policy')}
end

if not running() then
    return answer('finished', 0)
end
if generation ~= ARGV[3] then
    return answer('behind', 0)
end
local leases = sweep()

local function give(items)
    local reply = answer('items', 0)
    for _, item in ipairs(by_position(items)) do
        reply[#reply + 1] = item
    end
    return reply
end

-- The reply to this claim was lost: what it got, less what was reported or taken back since.
local held = {}
for item, holders in pairs(leases) do
    for _, holder in ipairs(holders) do
        if holder.worker == worker and holder.token == token then
            held[#held + 1] = item
        end
    end
end
if #held > 0 then
    return give(held)
end

if closable(leases) then
    return answer('complete', 0)
end

local function new_holder(items)
    local length = tonumber(ARGV[6])
    if not length then
        length = FIRST_LEASE
        if number_field('measured') > 0 then
            length = math.max(MINIMUM_LEASE, math.ceil(4 * number_field('mean_milliseconds') * items))
        end
    end
    return {since = now, deadline = now + length, worker = worker, token = token}
end

local items = {}
for index = 1, math.min(count, redis.call('LLEN', TODO)) do
    items[index] = redis.call('LPOP', TODO)
end
if #items > 0 then
    local holder = new_holder(#items)
    for _, item in ipairs(items) do
        store_holders(item, {holder})
    end
    return give(items)
end

-- Nothing is left: a copy of what has been out longest, if late. Of items claimed together, the one that its
-- holder will come to last.
local patience = late_after()
local oldest, oldest_since, oldest_position
local wait = MAXIMUM_WAIT
for item, holders in pairs(leases) do
    local since, mine = holders[1].since, false
    for _, holder in ipairs(holders) do
        mine = mine or holder.worker == worker
        wait = math.min(wait, holder.deadline - now)
    end
    if now - since <= patience then
        wait = math.min(wait, since + patience + 1 - now)
    elseif #holders == 1 and not mine then
        local at = position(item)
        if not oldest or since < oldest_since or (since == oldest_since and at > oldest_position) then
            oldest, oldest_since, oldest_position = item, since, at
        end
    end
end
if oldest then
    local holders = leases[oldest]
    holders[2] = new_holder(1)
    store_holders(oldest, holders)
    redis.call('HINCRBY', RUN, 'backups', 1)
    return give({oldest})
end

local first_silent = redis.call('ZRANGE', WORKERS, 0, 0, 'WITHSCORES')
if first_silent[2] then
    wait = math.min(wait, tonumber(first_silent[2]) - now)
end
return answer('wait', math.max(MINIMUM_WAIT, math.ceil(wait)))
