-- ARGV: now, generation, record, then the next opening. Returns the committed record.
if not exists() then
    return {'absent'}
end
local generation, current = tonumber(ARGV[2]), number_field('generation')
local id = integer(generation + 1) .. '-0'
if current > generation then
    return {'ok', redis.call('XRANGE', LOG, id, id)[1][2][2]}
end
if current < generation then
    return {'ahead', integer(current)}
end
if not running() then
    return {'finished'}
end
if not sufficient() then
    return {'incomplete'}
end
redis.call('XADD', LOG, id, 'record', ARGV[3],
    'seconds', string.format('%.3f', (now - number_field('opened')) / 1000),
    'item_milliseconds', field('item_milliseconds'),
    'workers', worker_count(),
    'leases_expired', integer(number_field('leases_expired') - number_field('leases_expired_before')),
    'backups', integer(number_field('backups') - number_field('backups_before')))
open(4)
return {'ok', ARGV[3]}
