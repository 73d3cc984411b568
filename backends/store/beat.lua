-- Says that a process lives, and renews the slots that it holds; also those that a server has lost.
-- KEYS: the set of processes, then buckets of slots.
-- ARGV: nonce, process, lifetime of a lease in microseconds (0: the process ends);
--       then of each bucket: how many leases, the leases.
-- Answer: nonce, now in microseconds, how many processes live.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local processes, lifetime = KEYS[1], tonumber(ARGV[3])

if lifetime == 0 then
  redis.call('ZREM', processes, ARGV[2])
else
  -- The first write is one that a server refuses whose memory is full, or which is read-only.
  redis.call('ZADD', processes, now + lifetime, ARGV[2])
  redis.call('PEXPIRE', processes, 2 * lifetime / 1000)
  -- Left from before the server's clock went back; who lives is there again with the next beat.
  redis.call('ZREMRANGEBYSCORE', processes, '(' .. string.format('%.0f', now + 2 * lifetime), '+inf')
end

redis.call('ZREMRANGEBYSCORE', processes, '-inf', now)
local at = 4
for i = 2, #KEYS do
  local leases = tonumber(ARGV[at])
  for lease = at + 1, at + leases do
    redis.call('ZADD', KEYS[i], now + lifetime, ARGV[lease])
  end
  redis.call('PEXPIRE', KEYS[i], 2 * lifetime / 1000)
  at = at + 1 + leases
end
return {tonumber(ARGV[1]), now, redis.call('ZCARD', processes)}
