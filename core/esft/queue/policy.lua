-- ARGV: now, policy, its version. Returns whether it is the policy now: an older one never replaces a newer one.
if not exists() then
    return {'absent'}
end
if tonumber(ARGV[3]) < number_field('policy_version') then
    return {'ok', 0}
end
redis.call('HSET', RUN, 'policy', ARGV[2], 'policy_version', ARGV[3])
return {'ok', 1}
