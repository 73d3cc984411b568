-- Makes good what requests took: their leases are given back, and what they used beyond is taken (policies/limits/*.py).
-- KEYS: a bucket a change; one may come twice.
-- ARGV: nonce; then of each change: strategy's letter, count, seconds, burst, what (the lease of a slot, else the
--       amount: whole units, negative is given back), when it was taken in microseconds.
-- Answer: nonce, how many changes.
local MICRO = 1000000
local time = redis.call('TIME')
local now = time[1] * MICRO + time[2]

local function keep(key, a, b, milliseconds)
  redis.call('SET', key, string.format('%.0f:%.0f:%.0f', a, b, now), 'PX',
    string.format('%.0f', math.min(milliseconds, 3e11)))
end

for i, key in ipairs(KEYS) do
  local at = 6 * i - 4
  local kind, count, seconds = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  if kind == 's' then
    redis.call('ZREM', key, ARGV[at + 4])
  else
    local most = tonumber(ARGV[at + 3]) * MICRO
    local amount = tonumber(ARGV[at + 4]) * MICRO
    local value = redis.call('GET', key)
    local a, b, since
    if value then
      a, b, since = string.match(value, '^(%-?%d+):(%d+):(%d+)$')
      a, b, since = tonumber(a), tonumber(b), tonumber(since)
    end
    if kind == 'b' then
      if not a then
        a, b = most, 0
      elseif now <= since then
        a = math.min(a, most)
      else
        local whole = math.floor((now - since) / seconds)
        local part = (now - since - whole * seconds) * count + b
        local more = math.floor(part / seconds)
        a, b = a + whole * count + more, part - more * seconds
        if a >= most then a, b = most, 0 end
      end
      a = a - amount
      if a >= most then a, b = most, 0 elseif a < -most then a, b = -most, 0 end
      local full = count == 0 and 3e9 or math.ceil((most - a) * seconds / count / 1000)
      keep(key, a, b, full + 10000)
    else
      local window = math.floor(now / (seconds * MICRO))
      if not a or a < window or a > window + 1 then a, b = window, 0 end
      if amount > 0 or math.floor(tonumber(ARGV[at + 5]) / (seconds * MICRO)) == a then
        b = math.min(math.max(b + amount, 0), 2 * count * MICRO)
        keep(key, a, b, (a + 1) * seconds * 1000 - math.floor(now / 1000) + 10000)
      end
    end
  end
end
return {tonumber(ARGV[1]), #KEYS}
