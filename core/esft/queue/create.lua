-- ARGV: now, fingerprint, contract, release, policy, its version, number of records, the records, then an opening.
-- Returns 1, or 0 if the run exists.
if exists() then
    return 0
end
redis.call('DEL', unpack(KEYS))
redis.call('HSET', RUN,
    'fingerprint', ARGV[2], 'contract', ARGV[3], 'release', ARGV[4], 'policy', ARGV[5], 'policy_version', ARGV[6],
    'phase', 'Running', 'reason', '', 'message', '',
    'reported', 0, 'duplicates', 0, 'stale', 0, 'leases_expired', 0, 'backups', 0, 'digest_mismatches', 0,
    'measured', 0, 'mean_milliseconds', 0, 'measures', '', 'measures_of', 0)
local records = tonumber(ARGV[7])
for index = 1, records do
    redis.call('XADD', LOG, integer(index) .. '-0', 'record', ARGV[7 + index])
end
open(8 + records)
return 1
