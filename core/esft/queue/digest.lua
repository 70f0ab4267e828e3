-- ARGV: now, worker, generation, digest, rebuilt, measures. Returns the agreed digest: the first of a rebuilt replica, else the first.
if not exists() then
    return {'absent'}
end
local generation, digest = ARGV[3], ARGV[4]
if ARGV[5] == '1' and redis.call('HSETNX', DIGESTS, generation .. ' rebuilt', 1) == 1 then
    redis.call('HSET', DIGESTS, generation, digest)
else
    redis.call('HSETNX', DIGESTS, generation, digest)
end
local agreed = redis.call('HGET', DIGESTS, generation)
if agreed ~= digest and redis.call('SADD', MISMATCHES, generation .. ' ' .. ARGV[2] .. ' ' .. digest) == 1 then
    redis.call('HINCRBY', RUN, 'digest_mismatches', 1)
end
if ARGV[6] ~= '' and tonumber(generation) >= number_field('measures_of') then
    redis.call('HSET', RUN, 'measures_of', generation, 'measures', ARGV[6])
end
-- The last digests come in after the run has finished: what they create goes when the run goes.
local left = redis.call('PTTL', RUN)
if left > 0 then
    redis.call('PEXPIRE', DIGESTS, integer(left))
    redis.call('PEXPIRE', MISMATCHES, integer(left))
end
return {'ok', agreed}
