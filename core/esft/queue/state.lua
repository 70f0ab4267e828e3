-- ARGV: now. Returns the state; changes nothing.
if not exists() then
    return {'absent'}
end
return state()
