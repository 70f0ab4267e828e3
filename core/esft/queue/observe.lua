-- ARGV: now, number of the first log entry wanted, at most how many. Returns the state, then for each entry
-- its fields and values in turn; changes nothing.
if not exists() then
    return {'absent'}
end
local entries = {}
for index, entry in ipairs(redis.call('XRANGE', LOG, integer(ARGV[2] + 1) .. '-0', '+', 'COUNT', ARGV[3])) do
    entries[index] = entry[2]
end
return {state(), entries}
