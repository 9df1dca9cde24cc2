-- The one write of a partition: state, offset, metrics and alerts, or nothing.
-- KEYS  1 state hash, 2 alert stream, 3 tail of the stream, 4 metrics hash
-- ARGV  owner, expected offset, next offset, stream length, channel,
--       number of fields, (field, state)*, number of deleted fields, field*,
--       number of models, (model, figures)*, number of alerts, (model, json without its "{")*
local held = redis.call('HMGET', KEYS[1], 'owner', 'offset')
local owner, offset = held[1] or '', held[2] or ''
if owner ~= ARGV[1] then return {'fenced', owner} end
if offset ~= ARGV[2] then return {'offset', offset} end

local at = 6
local function each(width, act)
  local count = tonumber(ARGV[at])
  at = at + 1
  for _ = 1, count do
    act(ARGV[at], ARGV[at + 1])
    at = at + width
  end
end

each(2, function(field, state) redis.call('HSET', KEYS[1], field, state) end)
each(1, function(field) redis.call('HDEL', KEYS[1], field) end)
each(2, function(model, figures) redis.call('HSET', KEYS[4], model, figures) end)
redis.call('HSET', KEYS[1], 'offset', ARGV[3])
each(2, function(model, rest)
  local previous = redis.call('GET', KEYS[3]) or '0-0'
  local id = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*',
    'alert', '{' .. rest, 'previous', previous)
  redis.call('SET', KEYS[3], id)
  local text = '{"stream_id":"' .. id .. '","previous_id":"' .. previous .. '",' .. rest
  redis.call('PUBLISH', ARGV[5], text)
  redis.call('PUBLISH', ARGV[5] .. ':' .. model, text)
end)
return {'ok', ARGV[3]}
