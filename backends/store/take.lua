-- Takes what one request asks of all its rules, or nothing (the arithmetic: policies/limits/*.py).
-- KEYS: one bucket a demand.
-- ARGV: nonce, lease, "take" or "look" (nothing is taken), lifetime of a lease in microseconds;
--       then of each demand: strategy's letter, count, seconds, burst, amount.
-- Answer: nonce, 1 or 0, now in microseconds, then each bucket's state: b level rest, f window used, s held mine.
local MICRO = 1000000
local time = redis.call('TIME')
local now = time[1] * MICRO + time[2]
local lease, looks, lifetime = ARGV[2], ARGV[3] == 'look', tonumber(ARGV[4])
local granted = 1
local first, second, went_back = {}, {}, {}

for i, key in ipairs(KEYS) do
  local at = 5 * i
  local kind, count, seconds = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local amount = tonumber(ARGV[at + 4]) * MICRO
  if kind == 's' then
    -- Only read so far: a server whose memory is full stops a script at its first write, and not in its middle.
    local held = redis.call('ZCOUNT', key, '(' .. string.format('%.0f', now), '+inf')
    local mine = held > 0 and tonumber(redis.call('ZSCORE', key, lease) or 0) > now and 1 or 0
    if mine == 0 and held >= count then
      granted = 0
      -- After the server's clock went back nobody holds a slot for longer than a lifetime either.
      for _, other in ipairs(redis.call('ZRANGEBYSCORE', key, now + 2 * lifetime, '+inf')) do
        redis.call('ZADD', key, now + lifetime, other)
      end
    end
    first[i], second[i] = held, mine
  else
    local value = redis.call('GET', key)
    local a, b, since
    if value then
      a, b, since = string.match(value, '^(%-?%d+):(%d+):(%d+)$')
      a, b, since = tonumber(a), tonumber(b), tonumber(since)
    end
    if kind == 'b' then
      local most = tonumber(ARGV[at + 3]) * MICRO
      if not a then
        a, b = most, 0
      elseif now <= since then
        a = math.min(a, most)
        went_back[i] = now < since
      else
        -- (now - since) * count could pass 2^53, so whole `seconds` and the rest are apart.
        local whole = math.floor((now - since) / seconds)
        local part = (now - since - whole * seconds) * count + b
        local more = math.floor(part / seconds)
        a, b = a + whole * count + more, part - more * seconds
        if a >= most then a, b = most, 0 end
      end
      if a < amount then granted = 0 end
    else
      local window = math.floor(now / (seconds * MICRO))
      if not a or a < window or a > window + 1 then a, b = window, 0 end
      if b + amount > count * MICRO then granted = 0 end
    end
    first[i], second[i] = a, b
  end
end

local function keep(key, a, b, milliseconds)
  redis.call('SET', key, string.format('%.0f:%.0f:%.0f', a, b, now), 'PX',
    string.format('%.0f', math.min(milliseconds, 3e11)))
end

-- Ten seconds more than it takes until it may be forgotten.
local function keep_bucket(i)
  local at = 5 * i
  local count, seconds, most = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]) * MICRO
  local full = count == 0 and 3e9 or math.ceil((most - first[i]) * seconds / count / 1000)
  keep(KEYS[i], first[i], second[i], full + 10000)
end

if granted == 1 and not looks then
  for i, key in ipairs(KEYS) do
    local at = 5 * i
    local kind, seconds, amount = ARGV[at], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 4]) * MICRO
    if kind == 's' then
      redis.call('ZADD', key, now + lifetime, lease)
      redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
      redis.call('PEXPIRE', key, 2 * lifetime / 1000)
      first[i], second[i] = first[i] + 1 - second[i], 1
    elseif kind == 'b' then
      first[i] = first[i] - amount
      keep_bucket(i)
    else
      second[i] = second[i] + amount
      keep(key, first[i], second[i], (first[i] + 1) * seconds * 1000 - math.floor(now / 1000) + 10000)
    end
  end
else
  -- A bucket must not stand still until a clock that went back has caught up.
  for i in pairs(went_back) do
    if went_back[i] and not looks then keep_bucket(i) end
  end
end

local answer = {tonumber(ARGV[1]), granted, now}
for i = 1, #KEYS do
  answer[2 * i + 2], answer[2 * i + 3] = first[i], second[i]
end
return answer
